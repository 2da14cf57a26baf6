"""The order of a sweep: which trial starts when and what is known by then, by a clock of steps instead of seconds.

Searches that learn depend on the order in which results come. On a cluster that order is chance: a busy node, a kill, one
more GPU. So a sweep decides by a virtual clock on which every step takes the same time and `in_flight` trials are under
way at once. Results come when they come; each is used when it is its turn. What a sweep tries and gives up is therefore a
pure function of its recipe and of its trials' figures, and a sweep that broke off is told the figures again and stands
where it stood: there is no other state.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from manta.tune.space import Overrides
from manta.tune.study import Study

END = math.inf  # the mark after a trial's last one
Status = Literal["under way", "complete", "given up", "failed"]


class Reached(NamedTuple):
    """What a trial is known to have reached: figures by name, or why it failed. `ended`: there is nothing after it."""

    figures: Mapping[str, float]
    ended: bool = False
    failure: str = ""
    spread: Mapping[str, float] = {}  # of the repeats: the deviation of each figure


@dataclass
class Member:
    """A trial that was started: what it is, what it reached when it was its turn, how it ended."""

    number: int
    overrides: Overrides
    marks: tuple[int, ...]
    steps: float  # of the whole trial, on the virtual clock
    status: Status = "under way"
    passed: list[int] = field(default_factory=list)  # marks at which it was let go on
    step: int | None = None  # at which it was given up
    figures: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    # Of population based training: which member of the population, when, and the run whose model it starts from.
    slot: int = 0
    generation: int | None = None
    parent: str = ""

    @property
    def name(self) -> str:
        return f"{self.number:03d}" if self.generation is None else f"{self.slot:03d}-g{self.generation}"

    @property
    def next(self) -> float:
        """The mark it is waited for at; END for its end."""
        return self.marks[len(self.passed)] if len(self.passed) < len(self.marks) else END

    def at(self, mark: float) -> float:
        return min(mark, self.steps)


class Order:
    """Started trials, and the events that are still to come. Nothing here knows of processes, files, or seconds."""

    def __init__(
        self,
        study: Study,
        in_flight: int,
        objective: str,
        plan: Callable[[Overrides], tuple[tuple[int, ...], float]],
        open_for_more: Callable[[int], bool] = lambda _: True,
    ):
        """`plan`: a configuration's marks and its steps. `objective`: the figure by which trials are given up.

        `open_for_more(number)` is asked before each new trial: a budget may be spent.
        """
        self._study, self._in_flight, self._objective, self._plan = study, in_flight, objective, plan
        self._open = open_for_more
        self.total = study.total
        self.members: list[Member] = []
        self._events: list[tuple[float, int]] = []  # (virtual time, number)
        self._known: dict[tuple[int, float], Reached] = {}
        self._ended: list[Member] = []
        self._clock = 0.0
        self._more = True

    def reached(self, number: int, mark: float, what: Reached) -> None:
        """Take a result; `mark` is END for a trial's end. `advance` uses it when it is its turn."""
        self._known.setdefault((number, mark), what)

    def advance(self) -> None:
        """Go on as far as results are known: start trials, decide at marks, end trials."""
        self._start()
        while self._events:
            time, number = self._events[0]
            member = self.members[number]
            known = self._at(member)
            if known is None:
                return
            heapq.heappop(self._events)
            self._clock = time
            if (later := self._settle(member, known)) is not None:
                heapq.heappush(self._events, (later, number))
            else:
                self._ended.append(member)
            self._start()

    @property
    def waited_for(self) -> list[Member]:
        """The trials whose next result is not known, the one that is used first at the head."""
        return [self.members[number] for _, number in sorted(self._events) if self._at(self.members[number]) is None]

    @property
    def finished(self) -> bool:
        return not self._events and not self._more

    def take_ended(self) -> list[Member]:
        """The trials that ended since the last call, in the order in which they did."""
        ended, self._ended = self._ended, []
        return ended

    def importance(self) -> dict[str, float]:
        return self._study.importance()

    def goes_on(self, number: int, mark: int) -> bool | None:
        """Whether a trial is let go on at a mark; None while that is not decided."""
        member = self.members[number]
        if mark in member.passed:
            return True
        return None if member.status == "under way" else False

    def _at(self, member: Member) -> Reached | None:
        return self._known.get((member.number, member.next)) or self._known.get((member.number, END))

    def _start(self) -> None:
        while self._more and len(self._events) < self._in_flight:
            overrides = self._study.ask() if self._open(len(self.members)) else None
            if overrides is None:
                self._more = False
                return
            marks, steps = self._plan(overrides)
            member = Member(len(self.members), overrides, marks, steps)
            self.members.append(member)
            heapq.heappush(self._events, (self._clock + member.at(member.next), member.number))

    def _settle(self, member: Member, known: Reached) -> float | None:
        """Use a result; returns when the trial's next event is, None where it has ended."""
        mark = member.next
        member.figures, member.spread = dict(known.figures), dict(known.spread)
        if known.failure:
            member.status, member.failure = "failed", known.failure
            self._study.tell(member.number, None)
            return None
        if known.ended:
            member.status = "complete"
            self._study.tell(member.number, known.figures)
            return None
        step = int(mark)
        if self._study.report(member.number, step, known.figures[self._objective]):
            member.status, member.step = "given up", step
            self._study.tell(member.number, None, given_up=True)
            return None
        member.passed.append(step)
        return self._clock + member.at(member.next) - step


def summary(member: Member) -> dict[str, Any]:
    """A trial's line of the table of trials: without times, so that the same sweep writes the same line."""
    return {
        "trial": member.name,
        "overrides": member.overrides,
        "status": member.status,
        "step": member.step,
        "figures": member.figures,
        **({"spread": member.spread} if member.spread else {}),
        **({"parent": member.parent} if member.parent else {}),
        "reason": member.failure,
    }
