"""The keeper of a sweep: an actor that knows which runs are wanted, holds trials at their marks, and lets them go on.

What it decides is `order`'s business; here is what happens at once: which runs train, which wait for an answer, and who
makes room when more is wanted than the cluster holds. All it knows can be read again from the trials' own folders.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manta import recipe as recipes
from manta.errors import RecipeError
from manta.progress import format_figure
from manta.schema import TuneRecipe
from manta.storage import Folder
from manta.tune import figures, space, study, trial
from manta.tune.order import END, Member, Order, Reached, summary
from manta.tune.study import Earlier

FAILURES = "failures"  # a file for each run that failed for good
SPENT = "spent.json"
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What the keeper is told: plain values."""

    recipe: dict[str, Any]
    places: dict[str, str]  # the sweep's inputs by their role
    folder: str
    at_once: int  # runs that the cluster holds
    earlier: tuple[Earlier, ...]


class Keeper:
    def __init__(self, plan: Plan, mailbox: Any):
        recipe = recipes.validate(plan.recipe, kind="tune")
        assert isinstance(recipe, TuneRecipe)
        self._recipe, self._plan, self._mailbox = recipe, plan, mailbox
        self._folder = Folder(plan.folder)
        self._budget = Budget(recipe, self._folder)
        search = recipe.search
        steps = recipe.trial.stop.steps if recipe.trial.kind != "compress" else None
        self._order = Order(
            study.Study(search, recipe.seed, steps, plan.earlier),
            search.in_flight,
            next(iter(search.objectives)),
            self._shape,
            self._budget.allows,
        )
        self._results: dict[tuple[int, float], dict[int, Reached]] = {}  # of the repeats of a trial
        self._running: dict[str, float] = {}  # run -> since when
        self._leaving: set[str] = set()
        self._deaths: dict[str, int] = {}
        self._broken, self._stopping = "", False
        self._learnt = 0
        self._changed = asyncio.Event()
        self._advance()

    # --- what is asked -----------------------------------------------------------------------------------------------

    async def next(self) -> dict[str, Any] | str | None:
        """The run to start: {"run", "recipe", "after", "marks"}; "finished", or None where it depends on those that run."""
        if self._broken or self._stopping:
            return None if self._running else "finished"
        if wanted := self._launchable():
            member, repeat = wanted[0]
            name = self._name(member.number, repeat)
            self._running[name] = time.monotonic()
            self._notify()
            return {
                "run": name,
                "overrides": member.overrides,
                "recipe": self._made(member, repeat).recipe.model_dump(mode="json"),
                "after": self._made(member, repeat).after.model_dump(mode="json"),
                "marks": member.marks,
            }
        return "finished" if self._order.finished and not self._running else None

    async def arrived(self, run: str, step: int, validation: Mapping[str, Any] | None) -> bool:
        """A run has reached a mark: whether it goes on. Answers False as well where it has to make room for others."""
        number, repeat = _parts(run)
        if validation is not None:
            self._note(number, repeat, step, _reached(figures.at_mark(validation), self._recipe))
            self._advance()
        while not (self._broken or self._stopping):
            decided = self._order.goes_on(number, step)
            if decided is not None:
                return decided
            if self._crowded():
                self._leaving.add(run)
                return False
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue
        return False

    async def stop(self) -> None:
        """Start nothing more, and let no run wait any longer."""
        self._stopping = True
        self._notify()

    async def ended(self, run: str, status: str, reason: str) -> None:
        """A run's process has ended: see trial.Outcome; "died" where it said nothing."""
        number, repeat = _parts(run)
        self._budget.spend(time.monotonic() - self._running.pop(run), self._recipe)
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
            self._note(number, repeat, END, Reached({}, True, reason))
        elif status == "complete":
            self._learn_end(self._order.members[number], repeat)
        self._advance()

    async def table(self) -> dict[str, Any]:
        """All trials, started in their order, what broke the sweep off or "", and what matters how much."""
        return {
            "trials": [summary(member) for member in self._order.members],
            "broken": self._broken,
            "importance": self._order.importance(),
            "out_of_budget": self._budget.closed,
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _restarts(self) -> int:
        return int(getattr(self._recipe.trial.resources, "max_restarts", 3))

    def _shape(self, overrides: space.Overrides) -> tuple[tuple[int, ...], float]:
        if self._recipe.trial.kind == "compress" or self._recipe.search.early is None:
            return (), 1.0  # trials without marks take turns
        steps = overrides.get("stop.steps", self._recipe.trial.stop.steps)
        assert isinstance(steps, int)
        return study.marks(self._recipe.search, steps), float(steps)

    def _name(self, number: int, repeat: int) -> str:
        return f"{number:03d}" if self._recipe.search.repeats == 1 else f"{number:03d}-{repeat}"

    def _made(self, member: Member, repeat: int) -> space.Made:
        output = f"{self._plan.folder}/trials"
        name, seed = self._name(member.number, repeat), self._recipe.seed + repeat
        return space.made(self._recipe, member.overrides, name, output, seed, self._plan.places)

    def _launchable(self) -> list[tuple[Member, int]]:
        return [
            (member, repeat)
            for member in self._order.waited_for
            for repeat in range(self._recipe.search.repeats)
            if self._name(member.number, repeat) not in self._running and not self._has(member, repeat)
        ]

    def _has(self, member: Member, repeat: int) -> bool:
        return any(repeat in self._results.get((member.number, mark), {}) for mark in (member.next, END))

    def _crowded(self) -> bool:
        """Whether a run that waits at a mark keeps one from starting."""
        room = self._plan.at_once - len(self._running) + len(self._leaving)
        return room <= 0 and bool(self._launchable())

    def _advance(self) -> None:
        """Let the order go on, and read what trials that it starts have left in an earlier attempt."""
        while True:
            self._order.advance()
            if self._learnt == len(self._order.members):
                break
            for member in self._order.members[self._learnt :]:
                for repeat in range(self._recipe.search.repeats):
                    self._learn(member, repeat)
            self._learnt = len(self._order.members)
        self._report()
        self._notify()

    def _learn(self, member: Member, repeat: int) -> None:
        run = self._name(member.number, repeat)
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
        found = trial.figures(self._made(member, repeat))
        if found is not None:
            search = self._recipe.search
            missing = figures.missing(found, {**search.objectives, **search.constraints})
            self._note(member.number, repeat, END, Reached(found, True, missing or ""))

    def _note(self, number: int, repeat: int, mark: float, what: Reached) -> None:
        """Take a run's result; a trial's is the mean of its repeats', or the first failure."""
        mine = self._results.setdefault((number, mark), {})
        mine.setdefault(repeat, what)
        failed = [one for _, one in sorted(mine.items()) if one.failure]
        if failed or len(mine) == self._recipe.search.repeats:
            self._order.reached(number, mark, failed[0] if failed else _mean([one for _, one in sorted(mine.items())]))

    def _report(self) -> None:
        """Tell what trials came to, once each, in their order of ending."""
        ended = [member for member in self._order.members if member.status != "under way"]
        objective, mode = next(iter(self._recipe.search.objectives.items()))
        for member in self._order.take_ended():
            shown = ", ".join(f"{path} {format_figure(value)}" for path, value in member.overrides.items())
            value = member.figures.get(objective)
            said = f"{objective.replace('_', ' ')} {format_figure(value)}" if value is not None else member.failure
            at = f" at step {member.step}" if member.step is not None else ""
            self._tell(f"trial {member.number:03d} {member.status}{at} ({shown}): {said}")
        values = [member.figures[objective] for member in ended if member.status == "complete"]
        best = {} if not values else {"best": min(values) if mode == "min" else max(values)}
        given_up = sum(member.status == "given up" for member in ended)
        more = {"given up": given_up} if given_up else {}
        self._mailbox.put.remote(
            {
                "update": {
                    "done": len(ended),
                    "total": self._recipe.search.trials,
                    "unit": "trials",
                    "sweep": True,
                    **more,
                    **best,
                }
            }
        )

    def _tell(self, text: str) -> None:
        self._mailbox.put.remote({"note": text})

    def _notify(self) -> None:
        """Wake those that wait at a mark."""
        self._changed.set()
        self._changed = asyncio.Event()


class Budget:
    """Hours spent over all attempts of a sweep, kept in its folder."""

    def __init__(self, recipe: TuneRecipe, folder: Folder):
        self._limits, self._folder, self._began = recipe.search.budget, folder, time.monotonic()
        old = json.loads(folder.read_text(SPENT)) if folder.exists(SPENT) else {}
        self._before, self._worker_seconds = old.get("seconds", 0.0), old.get("worker_seconds", 0.0)
        self._started = old.get("trials", 0)
        self.closed = False

    def spend(self, seconds: float, recipe: TuneRecipe) -> None:
        """A run held its workers for `seconds`."""
        self._worker_seconds += seconds * getattr(recipe.trial.resources, "workers", 1)
        self._save()

    def allows(self, number: int) -> bool:
        """Whether trial `number` may start. One that did in an earlier attempt may: its results are part of the sweep."""
        if number < self._started:
            return True
        limits = self._limits
        over_time = limits.hours is not None and self._seconds >= 3600 * limits.hours
        over_workers = limits.worker_hours is not None and self._worker_seconds >= 3600 * limits.worker_hours
        self.closed = self.closed or over_time or over_workers
        if self.closed:
            return False
        self._started = number + 1
        if limits.hours is not None or limits.worker_hours is not None:
            self._save()
        return True

    def _save(self) -> None:
        said = {"seconds": self._seconds, "worker_seconds": self._worker_seconds}
        said = {name: round(value, 1) for name, value in said.items()} | {"trials": self._started}
        self._folder.write_text(SPENT, json.dumps(said))

    @property
    def _seconds(self) -> float:
        return float(self._before + time.monotonic() - self._began)


def _parts(run: str) -> tuple[int, int]:
    number, _, repeat = run.partition("-")
    return int(number), int(repeat or 0)


def _reached(found: dict[str, float], recipe: TuneRecipe) -> Reached:
    """A validation at a mark: one that has no figure to judge by ends the trial."""
    objective = next(iter(recipe.search.objectives))
    value = found.get(objective)
    if value is None or math.isnan(value):
        return Reached({}, True, f"{objective} is {value} in a validation: the training diverged, or validates nothing")
    return Reached(found)


def _mean(repeats: Sequence[Reached]) -> Reached:
    names = [name for name in repeats[0].figures if all(name in one.figures for one in repeats)]
    count = len(repeats)
    mean = {name: sum(one.figures[name] for one in repeats) / count for name in names}
    return Reached(mean, all(one.ended for one in repeats))
