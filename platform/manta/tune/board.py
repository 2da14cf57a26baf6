"""What a sweep shows: the trials that run at once, as a line or a live table, and the results of all of them as a table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manta.progress import Progress, format_figure
from manta.sections.search import Search

REPORT_SECONDS = 1.0
HELD = "held"  # stopped at a mark, to make room or because it is given up
# The kind of a stage -> what a run does until it says how far it is, and from then on.
STARTING = {
    "finetune": "starts",
    "pretrain": "starts",
    "compress": "compresses",
    "evaluate": "evaluates",
    "latency": "is timed",
}
WORKING = {"starts": "trains", HELD: "trains"}


def table(trials: Sequence[dict[str, Any]], search: Search, best: dict[str, Any]) -> str:
    """The trials as lines of equal columns, the best one marked."""
    paths, names = list(search.space), [*search.objectives, *search.constraints]
    head = ["trial", *short_names(paths).values(), *(name.replace("_", " ") for name in names), ""]
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
    """Sends what one run does to the sweep's driver: each stage that begins, and about once a second how far it is."""

    def __init__(self, run: str, mailbox: Any, overrides: Mapping[str, Any] | None = None):
        super().__init__(quiet=True)
        self._run, self._mailbox, self._overrides = run, mailbox, dict(overrides or {})
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

    def begin(self, stage: str, **fields: Any) -> None:
        super().begin(stage, **fields)
        self._told = 0.0
        state = STARTING.get(fields.get("kind", ""), stage)
        self._send(done=0.0, total=None, unit="", state=state, overrides=self._overrides)

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        if time.monotonic() - self._told < REPORT_SECONDS:
            return
        self._told = time.monotonic()
        shown = {"loss": figures["loss"]} if "loss" in figures else {}
        self._send(done=done, total=total or done or 1.0, unit=unit, **shown)

    def left(self, status: str) -> None:
        """The run's process is done with it: see trial.Outcome."""
        self._send(done=0.0, total=None, unit="", left=status)

    def _send(self, **fields: Any) -> None:
        self._answers.append(self._mailbox.put.remote({"update": {"run": self._run, **fields}}))


@dataclass
class _Run:
    """What is known of a run that is under way."""

    state: str
    overrides: Mapping[str, Any]
    heard: float  # when it last spoke
    done: float = 0.0
    total: float | None = None
    unit: str = ""
    loss: float | None = None
    origin: tuple[float, float] | None = None  # when the stage's first amount came, and what it was

    def hear(self, now: float, done: float, total: float | None, unit: str, loss: float | None) -> None:
        if self.origin is None or unit != self.unit or done < self.done:
            self.origin = (now, done)
        self.heard, self.done, self.total, self.unit = now, done, total, unit
        self.loss = self.loss if loss is None else loss
        self.state = WORKING.get(self.state, self.state)

    def seconds_left(self) -> float | None:
        """By its own speed, up to its last word; starting up is not work. None where that is not known."""
        if self.total is None or self.origin is None or self.done <= self.origin[1]:
            return None
        since, before = self.origin
        return round((self.heard - since) / (self.done - before) * (self.total - self.done), 1)


class Board(Progress):
    """Turns what the runs and the keeper send into the sweep's own progress: how many ended, what trains, the best."""

    def __init__(self, progress: Progress):
        super().__init__(quiet=True)
        self._progress = progress
        self._runs: dict[str, _Run] = {}
        self._sweep: dict[str, Any] = {}
        self._under_way: Mapping[str, Mapping[str, float]] | None = None  # trial -> its figures at its last mark
        self._spent: Mapping[str, Mapping[str, float]] = {}

    def note(self, text: str, **fields: Any) -> None:
        self._progress.note(text, **fields)

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        if figures.pop("sweep", False):
            self._under_way = figures.pop("under_way", None)
            self._spent = figures.pop("spent", {})
            self._sweep = {"done": done, "total": total, **figures}
            if self._under_way is not None:
                self._runs = {run: one for run, one in self._runs.items() if self._trial(run) in self._under_way}
        else:
            self._hear(done, total, unit, **figures)
        if self._sweep:
            self._show()

    def _hear(self, done: float, total: float | None, unit: str, *, run: str, **figures: Any) -> None:
        if self._under_way is not None and self._trial(run) not in self._under_way:
            return  # a word that was late
        now = time.monotonic()
        if (state := figures.get("state")) is not None:
            self._runs[run] = _Run(state, figures.get("overrides", {}), now)
        elif (status := figures.get("left")) is not None:
            if status == "halted" and run in self._runs:
                self._runs[run].state = HELD
            else:
                self._runs.pop(run, None)
        else:
            one = self._runs.setdefault(run, _Run("trains", {}, now))
            one.hear(now, done, total, unit, figures.get("loss"))

    def _trial(self, run: str) -> str:
        """The trial that a run belongs to: of several repeats each has a number behind the trial's name."""
        assert self._under_way is not None
        return run if run in self._under_way else run.rpartition("-")[0]

    def _show(self) -> None:
        shown = dict(self._sweep)
        done, total = shown.pop("done"), shown.pop("total")
        if self._progress.as_json:
            more: dict[str, Any] = {"spent": self._spent} if self._spent else {}
            self._progress.update(done, total, "trials", runs=self._rows(), **shown, **more)
            return
        spent: dict[str, Any] = {
            name: f"{format_figure(float(one['spent']))} of {format_figure(float(one['budget']))}"
            for name, one in self._spent.items()
        }
        if self._progress.is_live:
            self._progress.update(done, total, "trials", runs=self._rows(), **shown, **spent)
        else:
            self._progress.update(done, total, "trials", **self._losses(), **shown, **spent)

    def _losses(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            f"loss of {run}": one.loss
            for run, one in sorted(self._runs.items())
            if one.loss is not None and one.state != HELD and now - one.heard < 5 * REPORT_SECONDS
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [self._row(run, one) for run, one in sorted(self._runs.items())]

    def _row(self, run: str, one: _Run) -> dict[str, Any]:
        row: dict[str, Any] = {"trial": run, "state": one.state}
        if one.unit:
            row |= {"done": one.done, "total": one.total, "unit": one.unit}
        if one.loss is not None:
            row["loss"] = one.loss
        if self._under_way is not None:
            row |= self._under_way.get(self._trial(run), {})
        if one.state != HELD:
            row["seconds_left"] = one.seconds_left()
        return row | {short: one.overrides[path] for path, short in short_names(list(one.overrides)).items()}


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Field -> the last words of its path, as many as tell it from the others."""
    found = {}
    for path in paths:
        words = path.split(".")
        for count in range(1, len(words) + 1):
            short = ".".join(words[-count:])
            if sum(other == short or other.endswith(f".{short}") for other in paths) == 1:
                break
        found[path] = short
    return found
