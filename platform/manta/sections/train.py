"""The vocabulary of recipes: the sections of training and fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from manta.sections.base import (
    ExampleFile,
    Examples,
    Fraction,
    Positive,
    PositiveFloat,
    Section,
    Shards,
)


class Batch(Section):
    """The global batch, whatever the number of workers. Exactly one of the two."""

    samples: Positive | None = None
    tokens: Positive | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Batch:
        if (self.samples is None) == (self.tokens is None):
            raise ValueError("set exactly one of batch.samples and batch.tokens")
        return self


class FinetuneBatch(Batch):
    """The global batch of a task's examples, and how they come to stand in rows."""

    grouping: Literal["length", "none"] = Field(
        "length", description="length: rows of like length make up a batch, which pads less; none: chance alone does"
    )
    packing: bool = Field(
        False,
        description="several conversations share a row and do not see each other: chat and summarisation, by decoders",
    )


class Stop(Section):
    """When training is complete. Exactly one of the three."""

    tokens: Positive | None = None
    epochs: PositiveFloat | None = None
    steps: Positive | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Stop:
        if sum(value is not None for value in (self.tokens, self.epochs, self.steps)) != 1:
            raise ValueError("set exactly one of stop.tokens, stop.epochs and stop.steps")
        return self


class Checkpoint(Section):
    every_steps: Positive = 200
    keep: Positive = 2


class Validate(Section):
    """Validation during training."""

    every_steps: Positive = 200
    max_rows: Positive = 256


class FinetuneData(Section):
    examples: Examples
    train_rows: Positive | None = Field(None, description="use only this many training rows; none uses all")
    validation: ExampleFile | None = Field(
        None, description="a second file to validate with; none takes part of the first"
    )
    validation_fraction: Fraction = Field(0.05, description="of the examples, where they are one file; chosen by hash")
    columns: dict[str, str] = Field({}, description="field of the task -> column of the file, where they differ")


class PretrainData(Section):
    shards: Shards
