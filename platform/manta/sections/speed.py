"""The vocabulary of speed: how quickly a model answers beside its base, and whether a small draft model makes it quicker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from manta.sections.base import Model, Positive, Section

Several = Annotated[int, Field(ge=2)]


class Speed(Section):
    """Requests of random tokens, `batch` at a time, to the model and its base in turns. Nothing else of the evaluation runs
    meanwhile; what else runs on the machine shows in how far figures by wall time and by CPU time are apart."""

    batches: list[Positive] = Field([1, 16], min_length=1, description="requests that are answered together")
    prompt_tokens: Positive = Field(128, description="of each request")
    new_tokens: Several = Field(64, description="of each answer, exactly; models with heads give none")
    rounds: Several = Field(5, description="turns of each model; one before them warms up and is not counted")
    cpus: Positive = Field(1, description="threads of each engine; part of what is measured")

    @model_validator(mode="after")
    def different_batches(self) -> Speed:
        if len({*self.batches}) < len(self.batches):
            raise ValueError(f"evaluate.speed.batches = {self.batches} names one twice: name each once")
        return self


class Speculative(Section):
    """Speculative decoding (Leviathan et al., arXiv:2211.17192): a small model drafts tokens, the model checks them all in
    one pass and keeps those that it would have written. Measured in vLLM on rows of data.shards, against the model alone."""

    draft: Model = Field(description="a small model with the same tokenizer")
    tokens: Positive = Field(4, description="drafted at a time")
    prompts: Positive = Field(4, description="beginnings of validation rows that are continued, one at a time")
    prompt_tokens: Positive = 64
    new_tokens: Several = 48
    rounds: Several = 5
    cpus: Positive = Field(1, description="threads of each engine; part of what is measured")
