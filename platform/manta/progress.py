"""What a run says while it works: a line a person can follow, or one JSON object per line for programs."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO


class Progress:
    """Reports to stderr as text, or to stdout as JSON lines. Safe to hand to code that runs for hours.

    `update` may be called as often as the work likes; a terminal is redrawn four times a second, a log file gets a
    line every ten seconds and at the end.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False, stream: TextIO | None = None):
        self.as_json = as_json
        self.quiet = quiet
        self.stream = stream or (sys.stdout if as_json else sys.stderr)
        self.stage = ""
        self._shown = 0.0
        self._origin: tuple[float, float] | None = (
            None  # moment and amount of the first update: starting up is not work
        )
        self._open_line = False

    @property
    def stopping(self) -> bool:
        """Whether whoever follows this progress wants the work to stop at the next safe point."""
        return False

    def event(self, event: str, **fields: Any) -> None:
        """One thing that happened, for programs; people see it through `note`."""
        if self.as_json:
            record = {"event": event, "stage": self.stage, **fields}
            print(json.dumps(record, ensure_ascii=False, default=str), file=self.stream, flush=True)

    def begin(self, stage: str, **fields: Any) -> None:
        self.stage = stage
        self._shown, self._origin = 0.0, None
        self.event("begin", **fields)

    def note(self, text: str, **fields: Any) -> None:
        """One line that stays."""
        if self.as_json:
            self.event("note", text=text, **fields)
        elif not self.quiet:
            self._close_line()
            print(f"{self.stage + ': ' if self.stage else ''}{text}", file=self.stream, flush=True)

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        """How far the work is. `figures` are shown as they are (loss, tokens/s ...); time left is worked out here."""
        moment = time.monotonic()
        finished = total is not None and done >= total
        if self._origin is None or done < self._origin[1]:  # the first, or the next part of the stage counts anew
            self._origin = (moment, done)
        interval = 0.25 if self.stream.isatty() and not self.as_json else 1.0 if self.as_json else 10.0
        if self.quiet or (moment - self._shown < interval and not finished):
            return
        self._shown = moment
        since, before = self._origin
        left = (moment - since) / (done - before) * (total - done) if total is not None and done > before else None
        if self.as_json:
            self.event("progress", done=done, total=total, unit=unit, seconds_left=left and round(left, 1), **figures)
            return
        shown = f"{_count(done)}/{_count(total)} {unit}" if total is not None else f"{_count(done)} {unit}"
        parts = [shown, *(f"{key.replace('_', ' ')} {format_figure(value)}" for key, value in figures.items())]
        if left is not None and not finished:
            parts.append(f"{_duration(left)} left")
        line = f"{self.stage}: " + "  ".join(parts)
        if self.stream.isatty():
            print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)
            self._open_line = True
            if finished:
                self._close_line()
        else:
            print(line, file=self.stream, flush=True)

    def end(self, **fields: Any) -> None:
        self._close_line()
        self.event("end", **fields)
        self.stage = ""

    def _close_line(self) -> None:
        if self._open_line:
            print(file=self.stream, flush=True)
            self._open_line = False


def _count(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def format_figure(value: Any) -> str:
    """A figure as people read it: thousands separated, four significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
