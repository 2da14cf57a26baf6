"""The vocabulary of sweeps: what is searched, how, for what, and when a trial is given up."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from manta.sections.base import Fraction, Positive, PositiveFloat, Section, Sweep

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


class Population(Section):
    """Population based training (Jaderberg et al. 2017, arXiv:1711.09846): all members train for a generation, then the
    worst copy one of the best, weights and settings, and change its settings; so settings move while a model trains.

    Each generation of a member is a run of its own of trial.stop.steps / generations steps, which starts from the model
    its parent left: weights are handed on, the optimizer's moments and the schedule start anew.
    """

    generations: Annotated[int, Field(ge=2)] = Field(description="they share trial.stop.steps evenly")
    quantile: Annotated[float, Field(gt=0.0, le=0.5)] = Field(
        0.25, description="of the members: so many of the worst give way to as many of the best, at least one"
    )
    factors: list[PositiveFloat] = Field(
        [0.8, 1.25], min_length=1, description="by one of which a number changes; of a choice a neighbour is taken"
    )
    resample: Fraction = Field(
        0.25, description="share of changes in which a value is drawn anew from the space instead"
    )


class Latency(Section):
    """How quickly a trial's model answers, one request at a time, on requests of random tokens. Nothing else of the sweep
    runs meanwhile; what else runs on the machine is not known here."""

    requests: Positive = Field(50, description="that are measured, after some that are not")
    tokens: Positive = Field(128, description="of each request")
    new_tokens: Annotated[int, Field(ge=2)] = Field(32, description="of an answer of models that generate, at most")
    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="of decoders; models with heads and encoder-decoders answer in transformers"
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="measure as you will serve")
    cpus: Positive = Field(1, description="threads of the engine; part of what is measured")


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
    method: Literal["random", "grid", "tpe", "population"] = "random"
    trials: Positive = Field(4, description="configurations; grid: at most; population: members")
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
    population: Population | None = Field(None, description="of method: population, which needs it")
    budget: Budget = Budget()
    price_per_hour: PositiveFloat | None = Field(
        None, description="of one worker, in any currency: adds the figure `cost`, of the hours that a trial trained"
    )
    warm_start: Sweep | None = Field(None, description="an earlier sweep whose results tpe starts from")

    @model_validator(mode="after")
    def population_where_it_is_read(self) -> Search:
        if (self.method == "population") != (self.population is not None):
            given = "none" if self.population is None else "given"
            raise ValueError(
                f"search.population is {given} and search.method = {self.method}: set both, as in search.method=population "
                "search.population.generations=4, or neither"
            )
        return self
