"""The keeper of a sweep: an actor that knows which runs are wanted, holds trials at their marks, and lets them go on.

What it decides is `order`'s business; here is what happens at once: which runs train, which wait for an answer, and who
makes room when more is wanted than the cluster holds. All it knows can be read again from the trials' own folders.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.errors import RecipeError
from manta.progress import format_figure
from manta.schema import TuneRecipe
from manta.storage import Folder
from manta.tune import choice, figures, space, study, trial
from manta.tune.budget import Budget
from manta.tune.order import END, Member, Order, Reached, summary
from manta.tune.population import Population
from manta.tune.reading import SO_FAR
from manta.tune.study import Earlier

FAILURES = "failures"  # a file for each run that failed for good
LOOK_SECONDS = 1.0
SLOT_STARTS = 20  # of a slot's process without a run


@dataclass(frozen=True)
class Plan:
    """What the keeper is told: plain values."""

    recipe: dict[str, Any]
    places: dict[str, str]  # the sweep's inputs by their role
    folder: str
    at_once: int  # runs that the cluster holds
    earlier: tuple[Earlier, ...]


@dataclass(frozen=True)
class Running:
    """A run that has a process."""

    number: int
    repeat: int
    since: float
    training: str  # the run whose training it makes or shares
    measuring: bool


class Keeper:
    def __init__(self, plan: Plan, mailbox: Any):
        recipe = recipes.validate(plan.recipe, kind="tune")
        assert isinstance(recipe, TuneRecipe)
        self._recipe, self._plan, self._mailbox = recipe, plan, mailbox
        self._folder = Folder(plan.folder)
        self._budget = Budget(recipe, self._folder)
        self._order = self._ordered(plan)
        self._results: dict[tuple[int, float], dict[int, Reached]] = {}  # of the repeats of a trial
        self._running: dict[str, Running] = {}
        self._slots: dict[int, str] = {}  # slot -> the run that it took last
        self._begun: dict[int, int] = {}  # how often a slot's process began since it took one
        self._held: set[str] = set()  # runs that wait at a mark
        self._leaving: set[str] = set()
        self._unmeasured: set[str] = set()  # runs that are made, but for their latency
        self._trainings: dict[str, int] = {}  # what a trial trains -> the first one that does
        self._owners: dict[int, int] = {}  # trial -> the one whose training it shares; itself, where it is the first
        self._deaths: dict[str, int] = {}
        self._broken, self._stopping = "", False
        self._learnt = 0
        self._written = (-1, -1)  # trials, and ended ones, of the table so far
        self._changed = asyncio.Event()
        self._advance()

    # --- what is asked -----------------------------------------------------------------------------------------------

    async def began(self, slot: int) -> None:
        """A slot's process has begun. What the one before it was at has died with it; one that never gets to a run is a
        fault of the machine, and breaks the sweep off."""
        run = self._slots.pop(slot, None)
        if run is not None and run in self._running:
            await self.ended(run, "died", "its node ran out of memory, or left")
        self._begun[slot] = self._begun.get(slot, 0) + 1
        if self._begun[slot] > SLOT_STARTS:
            self._broken = f"the process of a slot began {self._begun[slot]} times and came to no run: see Ray's logs"

    async def next(self, slot: int = 0) -> dict[str, Any] | str | None:
        """The run to start: {"run", "recipe", "after", "marks", "measure"}; "finished", or None where it depends on those
        that run."""
        if self._broken or self._stopping:
            return None if self._running else "finished"
        if any(one.measuring for one in self._running.values()):
            return None  # it is alone
        pending = self._to_measure()
        if pending and not self._running:
            return self._started(slot, *pending[0], measure=True)
        if wanted := self._launchable():
            return self._started(slot, *wanted[0])
        return "finished" if self._order.finished and not self._running else None

    async def arrived(self, run: str, step: int, validation: Mapping[str, Any] | None) -> bool:
        """A run has reached a mark: whether it goes on. Answers False as well where it has to make room for others."""
        one = self._running[run]
        if validation is not None:
            self._note(one.number, one.repeat, step, _reached(figures.at_mark(validation), self._recipe))
            self._advance()
        self._held.add(run)
        while not (self._broken or self._stopping) and self._running.get(run) is one:  # else its process died meanwhile
            decided = self._order.goes_on(one.number, step)
            if decided is not None:
                self._held.discard(run)
                return decided
            if self._crowded():
                break
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue
        if self._running.get(run) is one:
            self._held.discard(run)
            self._leaving.add(run)
        return False

    async def stop(self) -> None:
        """Start nothing more, and let no run wait any longer."""
        self._stopping = True
        self._notify()

    async def ended(self, run: str, status: str, reason: str) -> None:
        """A run's process has ended: see trial.Outcome; "died" where it said nothing."""
        one = self._running.pop(run)
        self._budget.spend(monotonic() - one.since, 1 if one.measuring else self._workers)
        self._held.discard(run)
        self._leaving.discard(run)
        if status == "died":
            self._deaths[run] = self._deaths.get(run, 0) + 1
            if self._deaths[run] > self._restarts:
                status, reason = "failed", f"its process died {self._deaths[run]} times, the last time: {reason}"
            else:
                self._tell(f"trial {run}: its process died ({reason}); it is started again")
        if status == "broken":
            self._broken = reason
        elif status == "failed":
            self._folder.write_text(f"{FAILURES}/{run}.json", json.dumps({"reason": reason}))
            self._note(one.number, one.repeat, END, Reached({}, True, reason))
        elif status == "complete":
            self._learn_end(self._order.members[one.number], one.repeat)
        self._advance()

    async def table(self) -> dict[str, Any]:
        """All trials, started in their order, what broke the sweep off or "", and what matters how much."""
        return {
            "trials": [self._line(member) for member in self._order.members],
            "broken": self._broken,
            "importance": self._order.importance(),
            "out_of_budget": self._budget.closed,
        }

    def _line(self, member: Member) -> dict[str, Any]:
        owner = self._owners.get(member.number, member.number)
        shared = {} if owner == member.number else {"trained_as": self._order.members[owner].name}
        return {**summary(member), **shared}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _ordered(self, plan: Plan) -> Order | Population:
        recipe, search = self._recipe, self._recipe.search
        if search.population is not None:
            return Population(search, recipe.seed, self._budget.allows)
        steps = recipe.trial.stop.steps if recipe.trial.kind != "compress" else None
        return Order(
            study.Study(search, recipe.seed, steps, plan.earlier),
            search.in_flight,
            next(iter(search.objectives)),
            self._shape,
            self._budget.allows,
        )

    def _started(self, slot: int, member: Member, repeat: int, measure: bool = False) -> dict[str, Any]:
        name, made = self._name(member, repeat), self._made(member, repeat)
        self._slots[slot], self._begun[slot] = name, 0
        self._running[name] = Running(member.number, repeat, monotonic(), made.recipe.name, measure)
        self._notify()
        return {
            "run": name,
            "overrides": member.overrides,
            "recipe": made.recipe.model_dump(mode="json"),
            "after": made.after.model_dump(mode="json"),
            "marks": () if measure else member.marks,
            "measure": measure,
        }

    @property
    def _workers(self) -> int:
        return int(getattr(self._recipe.trial.resources, "workers", 1))

    @property
    def _restarts(self) -> int:
        return int(getattr(self._recipe.trial.resources, "max_restarts", 3))

    def _shape(self, overrides: space.Overrides) -> tuple[tuple[int, ...], float]:
        if self._recipe.trial.kind == "compress" or self._recipe.search.early is None:
            return (), 1.0  # trials without marks take turns
        steps = overrides.get("stop.steps", self._recipe.trial.stop.steps)
        assert isinstance(steps, int)
        return study.marks(self._recipe.search, steps), float(steps)

    def _name(self, member: Member, repeat: int) -> str:
        return member.name if self._recipe.search.repeats == 1 else f"{member.name}-{repeat}"

    def _made(self, member: Member, repeat: int) -> space.Made:
        output = f"{self._plan.folder}/trials"
        return space.made(
            self._recipe,
            member.overrides,
            self._name(member, repeat),
            output,
            # Another generation sees the examples in another order.
            self._recipe.seed + repeat + (member.generation or 0),
            self._plan.places,
            f"{output}/{member.parent}" if member.parent else None,
            self._name(self._order.members[self._owners.get(member.number, member.number)], repeat),
        )

    def _own(self, member: Member) -> None:
        """Find the trial that trains the same before this one, if there is one: they differ in what follows alone.

        Trials that are held at marks go their own ways, and so do generations.
        """
        search = self._recipe.search
        if search.early is None and search.population is None:
            raw = space.unplaced(self._recipe, member.overrides)["trial"]
            self._owners[member.number] = self._trainings.setdefault(json.dumps(raw, sort_keys=True), member.number)

    def _wanted(self) -> list[tuple[Member, int]]:
        """The runs without a process whose results are waited for."""
        return [
            (member, repeat)
            for member in self._order.waited_for
            for repeat in range(self._recipe.search.repeats)
            if self._name(member, repeat) not in self._running and not self._has(member, repeat)
        ]

    def _launchable(self) -> list[tuple[Member, int]]:
        return [
            one for one in self._wanted() if self._name(*one) not in self._unmeasured and not self._trained_now(*one)
        ]

    def _to_measure(self) -> list[tuple[Member, int]]:
        """The runs that wait until they can be measured alone."""
        return [one for one in self._wanted() if self._name(*one) in self._unmeasured]

    def _trained_now(self, member: Member, repeat: int) -> bool:
        """Whether another run is making the training that this one shares: it waits until that is done."""
        owner = self._owners.get(member.number, member.number)
        training = self._name(self._order.members[owner], repeat)
        return any(one.training == training for one in self._running.values()) and not artifacts.is_complete(
            self._folder / f"trials/{training}"
        )

    def _has(self, member: Member, repeat: int) -> bool:
        return any(repeat in self._results.get((member.number, mark), {}) for mark in (member.next, END))

    def _crowded(self) -> bool:
        """Whether runs that wait at marks keep one from starting, or from being measured alone."""
        if self._launchable():
            return self._plan.at_once - len(self._running) + len(self._leaving) <= 0
        return bool(self._to_measure()) and set(self._running) == self._held | self._leaving

    def _advance(self) -> None:
        """Let the order go on, and read what trials that it starts have left in an earlier attempt."""
        while True:
            self._order.advance()
            if self._learnt == len(self._order.members):
                break
            for member in self._order.members[self._learnt :]:
                self._own(member)
                for repeat in range(self._recipe.search.repeats):
                    self._learn(member, repeat)
            self._learnt = len(self._order.members)
        self._report()
        self._notify()

    def _learn(self, member: Member, repeat: int) -> None:
        run = self._name(member, repeat)
        try:
            made = self._made(member, repeat)
        except RecipeError as error:
            self._note(member.number, repeat, END, Reached({}, True, str(error)))
            return
        for step, found in trial.at_marks(made).items():
            if step in member.marks:
                self._note(member.number, repeat, step, _reached(found, self._recipe))
        if self._folder.exists(f"{FAILURES}/{run}.json"):
            reason = json.loads(self._folder.read_text(f"{FAILURES}/{run}.json"))["reason"]
            self._note(member.number, repeat, END, Reached({}, True, reason))
        else:
            self._learn_end(member, repeat)

    def _learn_end(self, member: Member, repeat: int) -> None:
        made, run, search = self._made(member, repeat), self._name(member, repeat), self._recipe.search
        found = trial.figures(made)
        self._unmeasured.discard(run)
        if found is None and trial.is_made(made):
            self._unmeasured.add(run)
        if found is not None:
            found |= figures.cost(found, search.price_per_hour)
            missing = figures.missing(found, {**search.objectives, **search.constraints})
            self._note(member.number, repeat, END, Reached(found, True, missing or ""))

    def _note(self, number: int, repeat: int, mark: float, what: Reached) -> None:
        """Take a run's result; a trial's is the mean of its repeats', or the first failure."""
        mine = self._results.setdefault((number, mark), {})
        mine.setdefault(repeat, what)
        failed = [one for _, one in sorted(mine.items()) if one.failure]
        if failed or len(mine) == self._recipe.search.repeats:
            self._order.reached(
                number, mark, failed[0] if failed else _joined([one for _, one in sorted(mine.items())])
            )

    def _report(self) -> None:
        """Tell what trials came to, once each, in their order of ending."""
        ended = [member for member in self._order.members if member.status != "under way"]
        objective = next(iter(self._recipe.search.objectives))
        for member in self._order.take_ended():
            shown = ", ".join(f"{path} {format_figure(value)}" for path, value in member.overrides.items())
            value = member.figures.get(objective)
            said = f"{objective.replace('_', ' ')} {format_figure(value)}" if value is not None else member.failure
            at = f" at step {member.step}" if member.step is not None else ""
            self._tell(f"trial {member.name} {member.status}{at} ({shown}): {said}")
        lines = [self._line(member) for member in self._order.members]
        if (len(lines), len(ended)) != self._written:
            self._written = (len(lines), len(ended))
            self._folder.write_text(SO_FAR, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        best = choice.best(lines, self._recipe.search)
        given_up = sum(member.status == "given up" for member in ended)
        failed = sum(member.status == "failed" for member in ended)
        now, workers = monotonic(), self._workers
        held = sum((now - one.since) * (1 if one.measuring else workers) for one in self._running.values())
        names = list(self._recipe.search.objectives)
        self._mailbox.put.remote(
            {
                "update": {
                    "done": len(ended),
                    "total": self._order.total,
                    "unit": "trials",
                    "sweep": True,
                    **({"given up": given_up} if given_up else {}),
                    **({"failed": failed} if failed else {}),
                    **({"best": best["figures"][objective]} if best else {}),
                    "spent": self._budget.spent(held),
                    "under_way": {
                        member.name: {name: member.figures[name] for name in names if name in member.figures}
                        for member in self._order.members
                        if member.status == "under way"
                    },
                }
            }
        )

    def _tell(self, text: str) -> None:
        self._mailbox.put.remote({"note": text})

    def _notify(self) -> None:
        """Wake those that wait at a mark."""
        self._changed.set()
        self._changed = asyncio.Event()


def _reached(found: dict[str, float], recipe: TuneRecipe) -> Reached:
    """A validation at a mark: one that has no figure to judge by ends the trial."""
    objective = next(iter(recipe.search.objectives))
    value = found.get(objective)
    if value is None or math.isnan(value):
        return Reached({}, True, f"{objective} is {value} in a validation: the training diverged, or validates nothing")
    return Reached(found)


def _joined(repeats: Sequence[Reached]) -> Reached:
    """What a trial's repeats have reached together: the mean of their figures, and how far they lie apart."""
    mean, spread = figures.mean([one.figures for one in repeats])
    return Reached(mean, all(one.ended for one in repeats), spread=spread)
