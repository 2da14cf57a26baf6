"""Notices that a worker hangs: writes where each of its threads stands, and ends it so that the group is restarted."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from manta.sections.optimisation import Watchdog as Limits
from manta.storage import Folder

EXIT_HUNG = 75  # EX_TEMPFAIL of sysexits.h: it may well go better the next time
STACKS = "work/stacks"
STDERR = 2  # the file itself: what sys.stderr is may not be a file
GRACE = 30.0  # seconds after which a worker is ended that cannot even run the watchdog's thread


class Watchdog:
    """A thread that ends the process with EXIT_HUNG when no step was finished for too long.

    The stacks go to RUN/work/stacks/rank-N.txt and to stderr. `limits` has its own patience for the first step, for
    checkpoints and for validations. A worker that hangs in native code which keeps Python's lock is ended by
    faulthandler's own timer, GRACE seconds later, with its stacks on stderr alone and exit code 1.
    """

    def __init__(self, folder: Folder, rank: int, limits: Limits, grace: float = GRACE):
        self.folder, self.rank, self.limits, self.grace = folder, rank, limits, grace
        self._mark = ("first_step", time.monotonic(), 0)  # what it does, since when, steps finished: replaced whole
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="manta-watchdog", daemon=True)
        self._thread.start()

    def beat(self, step: int) -> None:
        """A step was finished: `step` of them in all."""
        self._mark = ("step", time.monotonic(), step)

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Something that takes long, `checkpoint` or `validation`, by its own limit; the step's begins anew after it."""
        self._mark = (phase, time.monotonic(), self._mark[2])
        try:
            yield
        finally:
            self._mark = ("step", time.monotonic(), self._mark[2])

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while True:
            phase, since, _ = mark = self._mark
            limit = float(getattr(self.limits, phase))
            left = since + limit - time.monotonic()
            if left <= 0 and self._mark is mark:
                self._end(*mark)
            faulthandler.dump_traceback_later(max(left, 0.0) + self.grace, exit=True, file=STDERR)
            if self._ended.wait(min(max(left, 0.01), max(0.05, limit / 20), 5.0)):
                return

    def _end(self, phase: str, since: float, step: int) -> None:
        silent = time.monotonic() - since
        headline = (
            f"rank {self.rank} (process {os.getpid()}) hangs: {silent:.0f} s in its {phase.replace('_', ' ')} after "
            f"{step} steps, the limit is watchdog.{phase} = {getattr(self.limits, phase):g} s\n\n"
        )
        # If even writing hangs, the timer that was set before ends the process.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as scratch:
            faulthandler.dump_traceback(scratch, all_threads=True)
            scratch.seek(0)
            text = headline + scratch.read()
        sys.stderr.write(text)
        sys.stderr.flush()
        try:
            self.folder.write_text(f"{STACKS}/rank-{self.rank}.txt", text)
        finally:
            os._exit(EXIT_HUNG)
