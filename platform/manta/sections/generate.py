"""The vocabulary of `generate`: what a teacher is asked, how it writes, and which of its answers are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manta.sections.base import ExampleFile, Examples, Fraction, Positive, Section, Shards

PROMPT_TOKENS = 32


class GenerateData(Section):
    """Exactly one of the two: questions that are answered, or rows whose beginnings are continued."""

    examples: Examples | None = Field(None, description="of `task`; answers that it holds are replaced, or missing")
    shards: Shards | None = Field(None, description="rows in the teacher's tokens")
    train_rows: Positive | None = Field(None, description="use only this many training examples or rows; none uses all")
    validation: ExampleFile | None = Field(
        None, description="a second file of examples, held out; none holds out part of the first"
    )
    validation_fraction: Fraction = Field(0.05, description="of the examples, where they are one file; chosen by hash")
    columns: dict[str, str] = Field({}, description="field of the task -> column of the file, where they differ")

    @model_validator(mode="after")
    def exactly_one(self) -> GenerateData:
        if (self.examples is None) == (self.shards is None):
            raise ValueError(
                "set exactly one of data.examples (questions to answer) and data.shards (rows to continue)"
            )
        return self


class GenerateSettings(Section):
    """How a teacher writes. Sequence-level distillation takes its likeliest answers (arXiv:1606.07947): temperature 0."""

    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="transformers: of an encoder-decoder; of a decoder one answer at a time, on the CPU"
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="of the activations")
    prompt_tokens: Positive | None = Field(
        None, description=f"of a row, those that are given; the teacher writes the rest; none is {PROMPT_TOKENS}"
    )
    temperature: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="0: the likeliest token each time; above, drawn by the question's own seed"
    )
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="draw among the likeliest tokens that hold so much of the probability"
    )
    samples: Positive = Field(1, description="answers to each question, drawn apart; equal ones are kept once")
    max_repetition: Fraction = Field(
        0.5, description="of an answer's runs of four tokens, those that were there before; above it is left out"
    )

    @model_validator(mode="after")
    def what_is_drawn(self) -> GenerateSettings:
        if self.temperature == 0.0 and (self.samples > 1 or self.top_p < 1.0):
            raise ValueError(
                f"samples = {self.samples} and top_p = {self.top_p:g} are for answers that are drawn, and temperature = 0 takes the "
                "likeliest: set temperature above 0"
            )
        return self

    @property
    def given(self) -> int:
        """Tokens of a row that the teacher is given."""
        return PROMPT_TOKENS if self.prompt_tokens is None else self.prompt_tokens
