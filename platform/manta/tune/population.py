"""Population based training: generations of runs, each of which starts from the model that its parent left."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from manta.errors import Problem
from manta.schema import CompressTrial, FinetuneTrial, TuneRecipe
from manta.sections.search import Population as Settings
from manta.sections.search import Search
from manta.tune import draws, figures, space
from manta.tune.draws import DISTRIBUTIONS, Entry
from manta.tune.order import END, Member, Reached
from manta.tune.space import Overrides

# What may move while a model trains; anything else would make its parent's weights or figures those of something else.
MOVES = ("optimizer", "schedule", "stability", "batch")
WHOLE = ("full", "freeze")  # adaptations after which another run can go on where this one ended


class Population:
    """The order of population based training, with the methods of `order.Order`.

    A generation is judged when all of it is known, so nothing here depends on the order in which results come. Who copies
    whom, and what changes, is a pure function of (seed, generation, member) and of the figures.
    """

    def __init__(self, search: Search, seed: int, open_for_more: Callable[[int], bool] = lambda _: True):
        """`open_for_more(number)` is asked before each generation: a budget may be spent."""
        assert search.population is not None
        self._search, self._settings, self._seed, self._open = search, search.population, seed, open_for_more
        self._objective, mode = next(iter(search.objectives.items()))
        self._sign = 1 if mode == "min" else -1
        self.members: list[Member] = []
        self.total = search.trials * search.population.generations  # runs, at most
        self._known: dict[int, Reached] = {}
        self._current: list[Member] = []
        self._ended: list[Member] = []
        self._more = True

    def reached(self, number: int, mark: float, what: Reached) -> None:
        """Take the result of a run's end; there are no marks before it."""
        assert mark == END
        self._known.setdefault(number, what)

    def advance(self) -> None:
        """Go on as far as results are known: end runs, and where a whole generation has ended, begin the next."""
        while self._more:
            for member in self._current:
                if member.status == "under way" and member.number in self._known:
                    self._settle(member, self._known[member.number])
            if any(member.status == "under way" for member in self._current):
                return
            self._begin()

    @property
    def waited_for(self) -> list[Member]:
        return [member for member in self._current if member.number not in self._known]

    @property
    def finished(self) -> bool:
        return not self._more

    def take_ended(self) -> list[Member]:
        """The runs that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def importance(self) -> dict[str, float]:
        """None: settings move while a model trains, so that no figure belongs to one value."""
        return {}

    def goes_on(self, number: int, mark: int) -> bool | None:
        """Runs have no marks at which they could be given up."""
        raise AssertionError(f"run {number} asks at step {mark}, but a generation has no marks")

    def _settle(self, member: Member, known: Reached) -> None:
        member.figures, member.spread, member.failure = dict(known.figures), dict(known.spread), known.failure
        member.status = "failed" if known.failure else "complete"
        self._ended.append(member)

    def _begin(self) -> None:
        """Begin the next generation, if there is one: after the last, after a budget, and after nobody, there is none."""
        generation = len(self.members) // self._search.trials
        alive = [member for member in self._current if member.status == "complete"]
        over = generation == self._settings.generations or (generation > 0 and not alive)
        if over or not self._open(len(self.members)):
            self._more = False
            return
        first = len(self.members)
        drawn = [(one, "") for one in space.sample(self._search, self._seed)] if not generation else []
        chosen = drawn or self._bred(generation, alive)
        for slot, (overrides, parent) in enumerate(chosen):
            number = first + slot
            self.members.append(Member(number, overrides, (), 1.0, slot=slot, generation=generation, parent=parent))
        self._current = self.members[first:]

    def _bred(self, generation: int, alive: Sequence[Member]) -> list[tuple[Overrides, str]]:
        """Each member's settings in a generation, and the run whose model it starts from."""
        ranked = sorted(alive, key=self._rank)
        count = max(1, int(self._settings.quantile * len(self._current)))
        best = ranked[:count]
        stay = ranked[: max(count, len(self._current) - count)]  # those that failed are among the worst
        found = []
        for slot, member in enumerate(self._current):
            source = random.Random(f"{self._seed}/{generation}/{slot}")
            if member in stay:
                found.append((member.overrides, member.name))
                continue
            parent = source.choice(best)
            found.append((changed(self._search, parent.overrides, source), parent.name))
        return found

    def _rank(self, member: Member) -> tuple[int, float, int]:
        """The less the better: constraints that are missed, the objective, the number."""
        missed = sum(over > 0 for over in figures.excess(member.figures, self._search.constraints).values())
        return missed, self._sign * member.figures[self._objective], member.number


def changed(search: Search, overrides: Mapping[str, Any], source: random.Random) -> Overrides:
    """A configuration near `overrides`: each field is multiplied by a factor, steps to a neighbour, or is drawn anew."""
    settings = search.population
    assert settings is not None

    def draw(path: str, entry: Entry) -> Any:
        anew, unit, which = source.random(), source.random(), source.random()
        if path not in overrides or anew < settings.resample:
            return DISTRIBUTIONS[entry.name](entry.argument, unit)
        return _near(entry, overrides[path], which, settings)

    return space.drawn(search, draw)


def _near(entry: Entry, value: Any, unit: float, settings: Settings) -> Any:
    if entry.name == "choice":
        place = entry.argument.index(value) + (1 if unit < 0.5 else -1)
        return entry.argument[min(max(place, 0), len(entry.argument) - 1)]
    moved = value * settings.factors[int(unit * len(settings.factors))]
    if entry.name == "randint":
        low, high = entry.argument
        return min(max(round(moved), low), high)
    return draws.within(entry.argument, moved)


def lineage(trials: Sequence[dict[str, Any]], last: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the table that led to `last`, the first generation at the head."""
    by_name = {line["trial"]: line for line in trials}
    chain = [last]
    while parent := chain[0].get("parent"):
        chain.insert(0, by_name[parent])
    return chain


def recipes_of(recipe: TuneRecipe, trials: Sequence[dict[str, Any]], last: dict[str, Any]) -> list[space.TrialRecipe]:
    """The recipes that make the winner `last` again, one for each generation that led to it: each starts from the model
    of the one before."""
    lines = lineage(trials, last)
    found: list[space.TrialRecipe] = []
    for generation, line in enumerate(lines):
        name = f"{recipe.name}-best" + (f"-g{generation}" if len(lines) > 1 else "")
        parent = found[-1].name if found else None
        seed = recipe.seed + generation
        found.append(space.made(recipe, line["overrides"], name, recipe.output, seed, parent=parent).recipe)
    return found


def problems(recipe: TuneRecipe) -> Iterator[Problem]:
    """What does not go together with search.method=population."""
    search, trial = recipe.search, recipe.trial
    if search.population is None:
        return
    if search.trials < 2:
        yield Problem("search.trials", search.trials, "a population has at least 2 members")
    if search.repeats > 1:
        yield Problem("search.repeats", search.repeats, "members differ by chance as repeats would: leave it out")
    if search.early is not None:
        yield Problem("search.early", None, "a population gives its worst members up by itself: leave it out")
    if len(search.objectives) > 1:
        yield Problem("search.objectives", None, "members are ranked by one objective: name one, and constraints")
    for path in search.space:
        if path.partition(".")[0] not in MOVES:
            yield Problem(
                f"search.space.{path}",
                None,
                "cannot change while a model trains, since a member goes on with the weights of another: search fields of "
                f"{', '.join(MOVES)}, or set search.method=tpe",
            )
    if isinstance(trial, CompressTrial):
        yield Problem("search.method", search.method, "a compression has no steps to share out: set search.method=tpe")
        return
    yield from _of_trial(recipe, trial, search.population.generations)


def _of_trial(recipe: TuneRecipe, trial: Any, generations: int) -> Iterator[Problem]:
    if trial.stop.steps is None:
        yield Problem("search.method", recipe.search.method, "generations share the steps: set trial.stop.steps")
    elif trial.stop.steps % generations:
        yield Problem(
            "search.population.generations",
            generations,
            f"does not divide trial.stop.steps={trial.stop.steps}: set that to {-(-trial.stop.steps // generations) * generations}",
        )
    if not isinstance(trial, FinetuneTrial):
        return
    if trial.adapt.method not in WHOLE:
        yield Problem(
            "trial.adapt.method",
            trial.adapt.method,
            "the next generation would start with adapters of its own beside those that were merged: set adapt.method=full "
            "or freeze, or search.method=tpe",
        )
    if trial.task.name == "preference":
        yield Problem(
            "trial.task.name",
            "preference",
            "margins are measured against the model that a run starts from, another one in each generation: set "
            "search.method=tpe",
        )
