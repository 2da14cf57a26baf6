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
ASKED = f"{STACKS}/asked"  # what this group's ranks ask and answer
REQUEST = f"{ASKED}/request"
SILENT = 0.25  # share of its limit after which a rank looks whether another asks for its stacks
STDERR = 2  # the file itself: what sys.stderr is may not be a file
GRACE = 30.0  # seconds after which a worker is ended that cannot even run the watchdog's thread


class Watchdog:
    """A thread that ends the process with EXIT_HUNG when no step was finished for too long.

    Before that it asks the other ranks for their stacks, and waits for them as long as they may take to notice: where
    all ranks stand says more than where one does, and the end of one brings down the rest. Each rank's stacks go to
    RUN/work/stacks/rank-N.txt, and those of the one that hangs to stderr as well. A rank that cannot answer (it is
    stopped, its machine is gone) gets a file that says so. `limits` has its own patience for the first step, for
    checkpoints and for validations. A worker that hangs in native code which keeps Python's lock is ended by
    faulthandler's own timer, GRACE seconds later, with its stacks on stderr alone and exit code 1.
    """

    def __init__(self, folder: Folder, rank: int, limits: Limits, ranks: int = 1, grace: float = GRACE):
        self.folder, self.rank, self.limits, self.ranks, self.grace = folder, rank, limits, ranks, grace
        self._mark = ("first_step", time.monotonic(), 0)  # what it does, since when, steps finished: replaced whole
        if rank == 0:
            folder.clear(ASKED)  # by an earlier group: nobody asks yet
        self._answered = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="manta-watchdog", daemon=True)
        self._thread.start()

    def beat(self, step: int) -> None:
        """A step was finished: `step` of them in all."""
        self._mark = ("step", time.monotonic(), step)

    def touch(self) -> None:
        """What takes long gets ahead: its limit begins anew."""
        phase, _, step = self._mark
        self._mark = (phase, time.monotonic(), step)

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
            # When one rank hangs, the others soon wait for it: a rank that gets ahead need not look for a request.
            if left < limit * (1 - SILENT) and not self._answered and self._there(REQUEST):
                self._answer(*mark)
            faulthandler.dump_traceback_later(max(left, 0.0) + self.grace, exit=True, file=STDERR)
            if self._ended.wait(min(max(left, 0.01), self._interval(limit))):
                return

    @staticmethod
    def _interval(limit: float) -> float:
        """Seconds between two looks."""
        return min(max(0.05, limit / 20), 5.0)

    def _end(self, phase: str, since: float, step: int) -> None:
        limit = float(getattr(self.limits, phase))
        headline = (
            f"rank {self.rank} (process {os.getpid()}) hangs: {time.monotonic() - since:.0f} s in its {phase.replace('_', ' ')} after "
            f"{step} steps, the limit is watchdog.{phase} = {limit:g} s\n\n"
        )
        # If even writing hangs, the timer that was set before ends the process.
        text = headline + _stacks()
        sys.stderr.write(text)
        sys.stderr.flush()
        try:
            self._leave(text)
            self._ask(min(2 * self._interval(limit) + 1.0, self.grace / 2))
        finally:
            os._exit(EXIT_HUNG)

    def _ask(self, seconds: float) -> None:
        """Have the other ranks leave their stacks too; say of those which do not in time that they cannot."""
        silent = set(range(self.ranks)) - {self.rank}
        if silent:
            self.folder.write_text(REQUEST, str(self.rank))
        ends = time.monotonic() + seconds
        while silent and time.monotonic() < ends:
            time.sleep(0.05)
            silent = {rank for rank in silent if not self._there(f"{ASKED}/rank-{rank}")}
        for rank in silent:
            said = (
                f"rank {rank} did not answer rank {self.rank}, which hangs, within {seconds:.0f} s: it is stopped, in native code that "
                "keeps Python's lock, or its machine is gone\n"
            )
            self.folder.write_text(f"{STACKS}/rank-{rank}.txt", said)

    def _answer(self, phase: str, since: float, step: int) -> None:
        self._answered = True
        headline = (
            f"rank {self.rank} (process {os.getpid()}), asked by a rank that hangs: {time.monotonic() - since:.0f} s in its "
            f"{phase.replace('_', ' ')} after {step} steps\n\n"
        )
        with contextlib.suppress(OSError):
            self._leave(headline + _stacks())

    def _leave(self, text: str) -> None:
        self.folder.write_text(f"{STACKS}/rank-{self.rank}.txt", text)
        self.folder.write_text(f"{ASKED}/rank-{self.rank}", "")

    def _there(self, name: str) -> bool:
        """Whether a file is there, as the store says now: not from a listing that it gave before."""
        try:
            self.folder.read_text(name)
        except FileNotFoundError:
            return False
        except Exception as error:  # noqa: BLE001 - a store that does not answer is no reason to stop watching
            sys.stderr.write(f"rank {self.rank}: its watchdog cannot look at {self.folder.url}: {error}\n")
            return False
        return True


def _stacks() -> str:
    """Where each thread of this process stands."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as scratch:
        faulthandler.dump_traceback(scratch, all_threads=True)
        scratch.seek(0)
        return scratch.read()
