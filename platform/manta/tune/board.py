"""What a sweep shows: the progress of trials that run at once as one line, and their results as a table."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from manta.progress import Progress, format_figure

REPORT_SECONDS = 1.0


def table(results: Sequence[dict[str, Any]], metric: str, best: dict[str, Any]) -> str:
    """The results as lines of equal columns, the best one marked."""
    paths = list(results[0]["overrides"])
    head = ["trial", *(path.rpartition(".")[2] for path in paths), metric.replace("_", " ")]
    body = [
        [
            result["trial"],
            *(format_figure(result["overrides"][path]) for path in paths),
            (
                format_figure(result["metric"])
                if result["status"] == "complete"
                else f"failed: {result['reason'].splitlines()[0]}"
            )
            + ("  <- best" if result is best else ""),
        ]
        for result in results
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in [head, *body]
    ]
    return f"{len(results)} trials\n  " + "\n  ".join(lines)


class TrialProgress(Progress):
    """Sends what one trial does to the sweep's driver, about once a second."""

    def __init__(self, trial: str, mailbox: Any):
        super().__init__(quiet=True)
        self._trial, self._mailbox = trial, mailbox
        self._told = 0.0

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        if time.monotonic() - self._told < REPORT_SECONDS:
            return
        self._told = time.monotonic()
        shown = {"loss": figures["loss"]} if "loss" in figures else {}
        self._send(done / total if total else 0.0, unit, **shown)

    def finished(self, figure: float | None) -> None:
        self._send(1.0, "trials", result=figure)

    def tell(self, text: str) -> None:
        self._mailbox.put.remote({"note": text})

    def _send(self, share: float, unit: str, **figures: Any) -> None:
        self._mailbox.put.remote(
            {"update": {"done": share, "total": 1.0, "unit": unit, "trial": self._trial, **figures}}
        )


class Board(Progress):
    """Turns what the trials send into the sweep's own progress: how many are done, what runs, the best so far."""

    def __init__(self, progress: Progress, done: int, total: int, mode: str):
        super().__init__(quiet=True)
        self._progress, self._total, self._done = progress, total, done
        self._pick = min if mode == "min" else max
        self._shares: dict[str, float] = {}
        self._losses: dict[str, float] = {}
        self._best: float | None = None
        self._told = -1.0

    def note(self, text: str, **fields: Any) -> None:
        self._progress.note(text, **fields)

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        del total, unit
        trial = figures["trial"]
        self._shares[trial] = done
        if "loss" in figures:
            self._losses[trial] = figures["loss"]
        if (result := figures.get("result")) is not None and math.isfinite(result):
            self._best = result if self._best is None else self._pick(self._best, result)
        running = {
            f"loss of {name}": self._losses[name]
            for name, share in sorted(self._shares.items())
            if share < 1 and name in self._losses
        }
        best = {"best": self._best} if self._best is not None else {}
        now_done = self._done + math.floor(10 * sum(self._shares.values())) / 10
        if now_done < self._total or self._told < self._total:  # the end is told once
            self._progress.update(now_done, self._total, "trials", **running, **best)
        self._told = now_done
