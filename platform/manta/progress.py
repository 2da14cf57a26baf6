"""What a run says while it works: a line a person can follow, or one JSON object per line for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO


class Progress:
    """Reports to stderr as text, or to stdout as JSON lines. Safe to hand to code that runs for hours.

    `update` may be called as often as the work likes; a terminal is redrawn four times a second, a log file gets a
    line every ten seconds and at the end. Where several runs are under way, a terminal shows a table of them below.
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
        self._open_lines = 0  # of a terminal that the next drawing replaces

    @property
    def is_live(self) -> bool:
        """Whether a person watches: what is shown is drawn again and again, and may be a table."""
        return self.stream.isatty() and not self.as_json and not self.quiet

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

    def update(
        self, done: float, total: float | None, unit: str, *, runs: Sequence[Mapping[str, Any]] = (), **figures: Any
    ) -> None:
        """How far the work is. `figures` are shown as they are (loss, tokens/s ...); time left is worked out here.

        `runs`: parts of the work that are under way at once, as rows of one table; `done`, `total`, `unit` and
        `seconds_left` of a row are put into words. Terminals show them, and programs are told.
        """
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
            more = {"runs": [dict(run) for run in runs]} if runs else {}
            said = {"done": done, "total": total, "unit": unit, "seconds_left": left and round(left, 1)}
            self.event("progress", **said, **figures, **more)
            return
        parts = [
            _amount(done, total, unit),
            *(f"{key.replace('_', ' ')} {format_figure(value)}" for key, value in figures.items()),
        ]
        if left is not None and not finished:
            parts.append(f"{_duration(left)} left")
        line = f"{self.stage}: " + "  ".join(parts)
        if self.stream.isatty():
            self._draw([line] if finished else [line, *_table(runs)])
            if finished:
                self._close_line()
        else:
            print(line, file=self.stream, flush=True)

    def end(self, **fields: Any) -> None:
        self._close_line()
        self.event("end", **fields)
        self.stage = ""

    def _draw(self, lines: Sequence[str]) -> None:
        """Put lines in the place of those that were drawn last."""
        back = f"\x1b[{self._open_lines - 1}A" if self._open_lines > 1 else ""
        if len(lines) > 1:  # a line that wraps would be two
            width, height = _terminal(self.stream)
            hidden = len(lines) - (height - 1)
            lines = lines if hidden <= 0 else [*lines[: height - 2], f"  and {hidden + 1} more"]
            lines = [line[: width - 1] for line in lines]
        print(f"\r{back}\x1b[{'J' if back else 'K'}" + "\n".join(lines), end="", file=self.stream, flush=True)
        self._open_lines = len(lines)

    def _close_line(self) -> None:
        """Leave what was drawn last; of a table its first line, for what runs at once is soon wrong."""
        if self._open_lines > 1:
            print(f"\x1b[{self._open_lines - 1}A\r\n\x1b[J", end="", file=self.stream, flush=True)
        elif self._open_lines:
            print(file=self.stream, flush=True)
        self._open_lines = 0


def _amount(done: float, total: float | None, unit: str) -> str:
    return f"{_count(done)}/{_count(total)} {unit}" if total is not None else f"{_count(done)} {unit}"


def _table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as lines of equal columns below their names; no lines for no rows."""
    if not runs:
        return []
    rows = [_row(run) for run in runs]
    head = list(dict.fromkeys(key for row in rows for key in row))
    body = [[row.get(key, "") for key in head] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [[key.replace("_", " ") for key in head], *body]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def _row(run: Mapping[str, Any]) -> dict[str, str]:
    """A row's cells as text, in the order of its keys: how far it is and how long it takes in words."""
    found: dict[str, str] = {}
    for key, value in run.items():
        if key == "done":
            found[key] = _amount(value, run.get("total"), run.get("unit", ""))
        elif key == "seconds_left":
            found["left"] = _duration(value) if value is not None else ""
        elif key not in ("total", "unit"):
            found[key] = format_figure(value)
    return found


def _terminal(stream: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal; of one that does not say, those of the oldest."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24


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
