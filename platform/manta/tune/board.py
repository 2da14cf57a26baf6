"""What a sweep shows: the progress of trials that run at once as one line, and their results as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from manta.progress import Progress, format_figure
from manta.sections.search import Search

REPORT_SECONDS = 1.0


def table(trials: Sequence[dict[str, Any]], search: Search, best: dict[str, Any]) -> str:
    """The trials as lines of equal columns, the best one marked."""
    paths, names = list(search.space), [*search.objectives, *search.constraints]
    head = ["trial", *(path.rpartition(".")[2] for path in paths), *(name.replace("_", " ") for name in names), ""]
    body = [
        [
            line["trial"],
            *(format_figure(line["overrides"][path]) if path in line["overrides"] else "-" for path in paths),
            *(format_figure(line["figures"][name]) if name in line["figures"] else "-" for name in names),
            _how(line, line is best),
        ]
        for line in trials
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in [head, *body]
    ]
    return f"{len(trials)} trials\n  " + "\n  ".join(lines)


def _how(line: dict[str, Any], is_best: bool) -> str:
    if line["status"] == "failed":
        return f"failed: {line['reason'].splitlines()[0]}"
    if line["status"] == "given up":
        return f"given up at step {line['step']}"
    return "<- best" if is_best else ""


class TrialProgress(Progress):
    """Sends what one run does to the sweep's driver, about once a second."""

    def __init__(self, run: str, mailbox: Any):
        super().__init__(quiet=True)
        self._run, self._mailbox = run, mailbox
        self._told = 0.0
        self._answers: list[Any] = []
        self._wished = False

    @property
    def stopping(self) -> bool:
        """Whether an answer that has come says that the sweep is being stopped."""
        import ray

        if self._answers:
            come, self._answers = ray.wait(self._answers, num_returns=len(self._answers), timeout=0)
            self._wished = self._wished or any(ray.get(come))
        return self._wished

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        if time.monotonic() - self._told < REPORT_SECONDS:
            return
        self._told = time.monotonic()
        shown = {"loss": figures["loss"]} if "loss" in figures else {}
        share = {"done": done, "total": total or done or 1.0, "unit": unit, "run": self._run}
        self._answers.append(self._mailbox.put.remote({"update": {**share, **shown}}))


class Board(Progress):
    """Turns what the runs and the keeper send into the sweep's own progress: how many ended, what trains, the best."""

    def __init__(self, progress: Progress):
        super().__init__(quiet=True)
        self._progress = progress
        self._losses: dict[str, tuple[float, float | None]] = {}  # run -> when it last spoke, its loss
        self._sweep: dict[str, Any] = {}

    def note(self, text: str, **fields: Any) -> None:
        self._progress.note(text, **fields)

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        now = time.monotonic()
        if figures.pop("sweep", False):
            self._sweep = {"done": done, "total": total, **figures}
        else:
            self._losses[figures["run"]] = (now, figures.get("loss"))
        if not self._sweep:
            return
        running = {
            f"loss of {run}": loss
            for run, (when, loss) in sorted(self._losses.items())
            if loss is not None and now - when < 5 * REPORT_SECONDS
        }
        shown = dict(self._sweep)
        self._progress.update(shown.pop("done"), shown.pop("total"), "trials", **running, **shown)
        del unit
