"""The vocabulary of recipes: what a fine-tuning run learns beside its own task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from manta.sections.base import Section
from manta.sections.tasks import Answering, Comparing, Labelling
from manta.sections.train import FinetuneData, PretrainData

UNITS = 10_000  # in which weights are counted: four decimals


class TextTask(Section):
    """Prepared text as it is, each token from those before it: what a model already knew is kept."""

    name: Literal["text"]


def examples_or_shards(value: object) -> str:
    """Which of the two a stream's `data` is, for pydantic."""
    given = "shards" in value if isinstance(value, dict) else isinstance(value, PretrainData)
    return "shards" if given else "examples"


class Stream(Section):
    """Another task or source, and the share of the steps that it gets; the rest is the recipe's own."""

    weight: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="share of the steps, to four decimals")
    data: Annotated[
        Annotated[FinetuneData, Tag("examples")] | Annotated[PretrainData, Tag("shards")],
        Discriminator(examples_or_shards),
    ]
    task: Annotated[Answering | Labelling | Comparing | TextTask, Field(discriminator="name")]

    @model_validator(mode="after")
    def weight_in_units(self) -> Stream:
        if abs(self.weight * UNITS - self.units) > 1e-6 or self.units == 0:
            raise ValueError(
                f"weight = {self.weight!r} has more than four decimals: write {max(self.units, 1) / UNITS}"
            )
        return self

    @model_validator(mode="after")
    def text_comes_from_shards(self) -> Stream:
        if isinstance(self.task, TextTask) and isinstance(self.data, FinetuneData):
            raise ValueError(
                f"task.name = 'text' learns from prepared rows, not from examples = {self.data.examples!r}: write data: {{shards: NAME}} "
                "with an artifact of `manta prepare`"
            )
        if isinstance(self.data, PretrainData) and not isinstance(self.task, TextTask):
            raise ValueError(
                f"data.shards = {self.data.shards!r} holds text, and task.name = {self.task.name!r} learns from examples: write task: "
                "{name: text}, or data: {examples: ...}"
            )
        return self

    @property
    def units(self) -> int:
        """The weight in ten-thousandths."""
        return round(self.weight * UNITS)


def leaves_a_share(streams: list[Stream]) -> list[Stream]:
    """Refuse weights that leave no step for the recipe's own task."""
    if (taken := sum(stream.units for stream in streams)) >= UNITS:
        raise ValueError(
            f"the weights add up to {taken / UNITS:g}; what they leave of 1 is the share of the recipe's own task: lower them"
        )
    return streams


Mix = Annotated[
    list[Stream],
    AfterValidator(leaves_a_share),
    Field(description="what is learnt beside the recipe's own task, a step at a time"),
]
