"""The vocabulary of adapting a pretrained model: which weights move, by method; each method has its own settings alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manta.sections.base import Fraction, NonNegative, Positive, PositiveFloat, Section

ALL_LINEAR = "all-linear"
Targets = Annotated[list[str], Field(min_length=1)]
MERGE = "also leave the merged model, ready to compress and serve"


class Full(Section):
    """Every weight moves."""

    method: Literal["full"]


class Freeze(Section):
    """The embeddings and the first layers stay; of an encoder-decoder the encoder's layers come first."""

    method: Literal["freeze"]
    freeze_layers: NonNegative | Literal["all"] = Field(
        0, description="freeze: the embeddings and this many first layers stay; all: everything but the head"
    )


class Lora(Section):
    """Low-rank adapters: LoRA (arXiv:2106.09685), or DoRA (arXiv:2402.09353), which also learns the rows' lengths."""

    method: Literal["lora", "dora"]
    rank: Positive = 8
    alpha: PositiveFloat = 16.0
    dropout: Fraction = 0.0
    targets: Targets | Literal["all-linear"] | None = Field(
        None, description="names of linear layers; none: of attention, as is usual for the model's family"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead of alpha / rank (arXiv:2312.03732)")
    merge: bool = Field(True, description=f"lora, dora, ia3: {MERGE}")


class Ia3(Section):
    """Each output of keys and values, and each input of the feed-forward's last layer, times a factor (arXiv:2205.05638)."""

    method: Literal["ia3"]
    targets: Targets | None = Field(None, description="names of linear layers; none: those of the model's family")
    feedforward: list[str] | None = Field(
        None, description="those of the targets whose inputs are scaled; of the others it is the outputs"
    )
    merge: bool = Field(True, description=f"lora, dora, ia3: {MERGE}")

    @model_validator(mode="after")
    def both_or_neither(self) -> Ia3:
        if (self.targets is None) != (self.feedforward is None):
            raise ValueError("set both adapt.targets and adapt.feedforward, or neither")
        if strange := sorted(set(self.feedforward or []) - set(self.targets or [])):
            raise ValueError(f"adapt.feedforward = {strange}: they are not among adapt.targets: add them there")
        return self


class Prefix(Section):
    """Keys and values that every layer's attention sees before the text (prefix tuning, arXiv:2101.00190)."""

    method: Literal["prefix"]
    tokens: Positive = Field(20, description="prefix, prompt: how many learnt tokens stand before the text")


class Prompt(Section):
    """Embeddings that stand before those of the text (prompt tuning, arXiv:2104.08691)."""

    method: Literal["prompt"]
    tokens: Positive = Field(20, description="prefix, prompt: how many learnt tokens stand before the text")


class BitFit(Section):
    """Biases and norms alone (after arXiv:2106.10199, which trains the biases)."""

    method: Literal["bitfit"]


Adapt = Annotated[Full | Freeze | Lora | Ia3 | Prefix | Prompt | BitFit, Field(discriminator="method")]
