"""The vocabulary of sweeps: what is searched, how, for what, and when a trial is given up."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from manta.sections.base import Positive, PositiveFloat, Section, Sweep

Factor = Annotated[int, Field(ge=2)]


class Asha(Section):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934): at steps first, first x factor, ... the best
    1/factor of the trials that came so far go on."""

    method: Literal["asha"]
    first_step: Positive = Field(description="the first step at which a trial may be given up")
    factor: Factor = 3


class Hyperband(Section):
    """Successive halving in several brackets, some of which give a trial up later (Li et al. 2018, arXiv:1603.06560).
    With search.method=tpe this is BOHB's scheme (Falkner et al. 2018, arXiv:1807.01774)."""

    method: Literal["hyperband"]
    first_step: Positive = Field(description="the first step at which a trial of the first bracket may be given up")
    factor: Factor = 3


class Median(Section):
    """A trial is given up where its best figure so far is worse than the median of the others' at that step (Golovin et
    al. 2017, Google Vizier)."""

    method: Literal["median"]
    first_step: Positive
    every_steps: Positive
    after_trials: Positive = Field(5, description="trials that are never given up, from which the first median comes")


Early = Annotated[Asha | Hyperband | Median, Field(discriminator="method")]


class Limit(Section):
    """What a figure of a trial must keep to be chosen. Exactly one of the two."""

    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Limit:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("set exactly one of at_most and at_least")
        return self


class Budget(Section):
    """No new trial starts when one of them is spent; those that have started go on to their ends."""

    hours: PositiveFloat | None = Field(None, description="of wall time, over all attempts")
    worker_hours: PositiveFloat | None = Field(
        None, description="hours that workers were held: GPU-hours, where each holds one"
    )


class Search(Section):
    """Which fields of the trial's recipe vary, and how the best values are found."""

    space: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="path -> {choice: [..]}, {uniform: [a, b]}, {loguniform: [a, b]} or {randint: [a, b]}; beside it "
        "{when: {path: value or values}} for a field that only some trials have",
    )
    method: Literal["random", "grid", "tpe"] = "random"
    trials: Positive = Field(4, description="configurations; grid: at most")
    repeats: Positive = Field(1, description="runs of each configuration, with other seeds; their mean counts")
    in_flight: Positive = Field(
        4,
        description="trials under way when the next is chosen; part of the result, whatever the cluster holds at once",
    )
    objectives: dict[str, Literal["min", "max"]] = Field(
        {"validation_loss": "min"}, min_length=1, description="figure of a trial -> direction; several: the Pareto set"
    )
    constraints: dict[str, Limit] = {}
    early: Early | None = Field(None, description="how trials are given up before their end; none: never")
    budget: Budget = Budget()
    warm_start: Sweep | None = Field(None, description="an earlier sweep whose results tpe starts from")
