"""The vocabulary of `compress.quantise`: which numbers weights and activations become, and how they are rounded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manta.sections.base import Fraction, Positive, Section


class Mixed(Section):
    """A scheme for each layer, by what it would cost the model: the least damage that fits the size."""

    size_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        description="bytes of the result over those of the source"
    )
    schemes: list[Literal["w4a16", "w8a8"]] = Field(
        default=["w4a16", "w8a8"], min_length=1, description="what a layer may become; it may also stay as it is"
    )
    samples: Positive = Field(8, description="calibration rows on which the damage is measured")


class Quantise(Section):
    """int8 or fp8 weights and activations, or int4 weights: rounded to nearest, by GPTQ (arXiv:2210.17323) or after AWQ's
    search of scales (2306.00978); SmoothQuant (2211.10438) before either."""

    scheme: Literal["w8a8", "w4a16", "fp8"] = "w8a8"
    algorithm: Literal["rtn", "gptq", "awq"] = "gptq"
    group_size: Positive | None = Field(
        None,
        description="w4a16: input columns that share a scale; null: the largest of 128, 64, 32 that divides a layer",
    )
    smoothquant: Fraction | Literal["search"] | None = Field(
        None,
        description="migration strength, the same everywhere, or the best of each layer; null leaves activations alone",
    )
    mixed: Mixed | None = Field(None, description="choose each layer's scheme instead of one for all")
    kv_cache: Literal["fp8"] | None = Field(
        None, description="what served keys and values are kept in; null: the engine says"
    )

    @property
    def reads_rows(self) -> bool:
        """Whether these settings look at calibration rows at all."""
        found = self.algorithm != "rtn" or self.smoothquant is not None or self.mixed is not None
        return found or self.kv_cache is not None

    @model_validator(mode="after")
    def what_fits(self) -> Quantise:
        if self.algorithm == "awq" and self.smoothquant is not None:
            raise ValueError(
                "awq moves scales by its own search: set compress.quantise.smoothquant=null or algorithm=gptq"
            )
        if self.group_size is not None and self.scheme != "w4a16" and self.mixed is None:
            raise ValueError(
                f"scheme {self.scheme} has one scale for each output: set compress.quantise.group_size=null"
            )
        if self.mixed is not None and "scheme" in self.model_fields_set:
            raise ValueError("mixed chooses the schemes: leave compress.quantise.scheme out, or set mixed=null")
        return self
