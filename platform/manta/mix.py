"""A mix: several streams of rows that train one model, each as a recipe of its own, and whose turn each step is."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from manta.errors import InputError, Problem
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.mix import UNITS, TextTask
from manta.sections.mix import Stream as Settings
from manta.sections.objective import Clm
from manta.sections.train import Batch, PretrainData

# Tasks that a model learns with the output layer it was pre-trained with, so that one model has them all.
WITHOUT_HEAD = ("chat", "summarisation", "translation", "preference", "text")

Side = FinetuneRecipe | PretrainRecipe
Given = TypeVar("Given")


class Stream(NamedTuple):
    """A stream of a mix; the first one is the recipe's own task."""

    name: str  # in figures
    path: str  # in the recipe; empty for its own
    share: int  # of the steps, in units that have no meaning of their own
    recipe: Side  # that would train on it alone

    def inputs(self, found: Mapping[str, Given]) -> dict[str, Given]:
        """Of what is known by the role of an input of the whole recipe, this stream's part by the roles of its own."""
        if not self.path:
            return {role: item for role, item in found.items() if not role.startswith("mix.")}
        mine = {
            role.removeprefix(f"{self.path}."): item for role, item in found.items() if role.startswith(f"{self.path}.")
        }
        return {"model.source": found["model.source"], **mine}

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """What is refused within says which stream it is about."""
        try:
            yield
        except InputError as error:
            if not self.path:
                raise
            raise InputError(f"{self.path} ({self.name}): {error}") from error


def streams(recipe: FinetuneRecipe) -> list[Stream]:
    """All streams of a recipe, its own task first; that one alone where there is no mix."""
    shares = shares_of(recipe)
    own: Side = recipe.model_copy(update={"mix": [], **({"early_stop": None} if recipe.mix else {})})
    sides = [own, *(_alone(recipe, settings) for settings in recipe.mix)]
    paths = ["", *(f"mix.{number}" for number in range(len(recipe.mix)))]
    return [Stream(*each) for each in zip(names(recipe), paths, shares, sides, strict=True)]


def names(recipe: FinetuneRecipe) -> list[str]:
    """What figures call the streams: by their tasks, of equal ones `chat`, `chat_2`, `chat_3`."""
    found: list[str] = []
    for task in (recipe.task.name, *(settings.task.name for settings in recipe.mix)):
        again = sum(name == task or name.startswith(f"{task}_") for name in found)
        found.append(f"{task}_{again + 1}" if again else task)
    return found


def shares_of(recipe: FinetuneRecipe) -> tuple[int, ...]:
    """The shares of the steps as whole numbers without a common divisor; the recipe's own is what the others leave."""
    beside = [settings.units for settings in recipe.mix]
    every = (UNITS - sum(beside), *beside)
    divisor = math.gcd(*every)
    return tuple(share // divisor for share in every)


def _alone(recipe: FinetuneRecipe, settings: Settings) -> Side:
    """A recipe that trains on a stream alone as the mix does, but for its length."""
    if not isinstance(settings.task, TextTask):
        return recipe.model_copy(update={"data": settings.data, "task": settings.task, "mix": [], "early_stop": None})
    assert isinstance(settings.data, PretrainData)
    return PretrainRecipe(
        kind="pretrain",
        name=recipe.name,
        seed=recipe.seed,
        output=recipe.output,
        data=settings.data,
        model=recipe.model,
        objective=Clm(name="clm"),
        optimizer=recipe.optimizer,
        batch=Batch(samples=recipe.batch.samples, tokens=recipe.batch.tokens),
        stop=recipe.stop,
        evaluate=recipe.evaluate,
        resources=recipe.resources,
    )


def problems(recipe: FinetuneRecipe) -> Iterator[Problem]:
    """What is wrong with the mix of a recipe by itself."""
    if not recipe.mix:
        return
    tasks: list[tuple[str, str]] = [("task.name", recipe.task.name)]
    tasks += [(f"mix.{number}.task.name", settings.task.name) for number, settings in enumerate(recipe.mix)]
    for path, name in tasks:
        if name not in WITHOUT_HEAD:
            yield Problem(
                path,
                name,
                "has a head or a training of its own, and a mix trains one model with one output layer: mix "
                f"{', '.join(WITHOUT_HEAD[:-1])} and {WITHOUT_HEAD[-1]}, and train this task by a recipe of its own",
            )
    if recipe.distil is not None:
        yield Problem(
            "distil.teacher",
            recipe.distil.teacher,
            "a teacher is asked about one task, and a mix has several: leave distil out, or train this task by a recipe of its own",
        )
    if recipe.batch.samples is None:
        yield Problem(
            "batch.tokens",
            recipe.batch.tokens,
            "the rows of a mix's streams differ in length: set batch.samples, the rows of a step, in its place",
        )


# --- whose turn it is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """Which stream each step belongs to, and how many steps of each stream came before: functions of the step alone.

    After any n steps a stream of share s out of D has had floor(n s / D) or ceil(n s / D) of them. Each step goes to the
    stream whose next step is due first, of those that are not ahead of their share: the quota method of apportionment
    (Still, "A class of new methods for Congress apportionment", 1979), with deadlines as in Steiner and Yeomans, 1993.
    """

    shares: tuple[int, ...]

    def stream(self, step: int) -> int:
        """The number of the stream that `step` (from 0) belongs to."""
        return _turns(self.shares)[step % sum(self.shares)]

    def before(self, step: int) -> list[int]:
        """How many of the steps 0 to `step` - 1 belonged to each stream."""
        rounds, rest = divmod(step, sum(self.shares))
        begun = _turns(self.shares)[:rest]
        return [rounds * share + begun.count(number) for number, share in enumerate(self.shares)]

    def steps_for(self, stream: int, wanted: int) -> int:
        """The fewest steps of which `wanted` belong to a stream."""
        rounds, rest = divmod(wanted - 1, self.shares[stream])
        places = [place for place, number in enumerate(_turns(self.shares)) if number == stream]
        return rounds * sum(self.shares) + places[rest] + 1


@functools.lru_cache(maxsize=8)
def _turns(shares: Sequence[int]) -> list[int]:
    """The streams of the steps of one period, after which each has had its share exactly."""
    period, taken = sum(shares), [0] * len(shares)
    turns = []
    for step in range(period):
        due = [
            (-(-(count + 1) * period // share), number)  # the step before whose end the next one must have been
            for number, (count, share) in enumerate(zip(taken, shares, strict=True))
            if count * period < (step + 1) * share
        ]
        number = min(due)[1]
        taken[number] += 1
        turns.append(number)
    return turns
