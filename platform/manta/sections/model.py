"""The vocabulary of `model`: a new one of a family, or of any Transformers configuration, or one that exists."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from manta.sections.base import Input, Model, Positive, Section

Family = Literal["llama", "gpt2", "bert", "t5", "bart", "lstm"]
Preset = Literal[
    "llama-tiny", "llama-7m", "llama-30m", "llama-70m", "llama-135m", "llama-1b", "llama-7b",
    "gpt2-tiny", "gpt2-7m", "gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1.5b",
    "bert-tiny", "bert-mini", "bert-small", "bert-base", "bert-large",
    "t5-tiny", "t5-mini", "t5-small", "t5-base", "t5-large",
    "bart-tiny", "bart-mini", "bart-base", "bart-large",
    "lstm-tiny", "lstm-10m", "lstm-60m",
]  # fmt: skip
ConfigFile = Annotated[str, Input(("file",))]


class NewModel(Section):
    """A model from scratch: a preset with any of its sizes overridden, or a Transformers configuration as it stands."""

    family: Family | None = Field(None, description="none: the preset's; llama where neither is given")
    preset: Preset | None = Field(None, description="none: the family's of about 10M weights")
    config: ConfigFile | dict[str, Any] | None = Field(
        None, description="path of a config.json (./config.json), or its content, of any model type of Transformers"
    )
    hidden_size: Positive | None = None
    intermediate_size: Positive | None = None
    num_layers: Positive | None = None
    num_decoder_layers: Positive | None = Field(None, description="of encoder-decoders, whose encoder has num_layers")
    num_heads: Positive | None = None
    num_kv_heads: Positive | None = None
    max_position_embeddings: Positive | None = None
    tie_embeddings: bool | None = None
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None

    @model_validator(mode="after")
    def one_description(self) -> NewModel:
        given = [key for key in type(self).model_fields if key != "config" and getattr(self, key) is not None]
        if self.config is not None and given:
            raise ValueError(
                f"config says all of a model's sizes: write {', '.join(given)} into it, or leave config out"
            )
        return self


class SourceModel(Section):
    """A model that exists."""

    source: Model = Field(description="artifact name, path, URL or package:NAME")


def new_or_source(value: object) -> str:
    """Which of the two a `model` section is, for pydantic."""
    keys = value if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    return "source" if "source" in keys or isinstance(value, SourceModel) else "new"
