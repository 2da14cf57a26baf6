"""The vocabulary of `compress`: what is done to a model, each part alone or all of them, always in the order in which they stand."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from manta.sections.base import Fraction, Positive, Section, Shards


class Calibration(Section):
    """Rows of text that a model reads while it is compressed, so that what it does with them shows what may go."""

    shards: Shards
    samples: Positive = 64
    seq_len: Positive = 256


class Quantise(Section):
    """int8 weights and activations (W8A8): round to nearest, or GPTQ (arXiv:2210.17323), SmoothQuant (2211.10438)."""

    scheme: Literal["w8a8"] = "w8a8"
    algorithm: Literal["rtn", "gptq"] = "gptq"
    smoothquant: Fraction | None = Field(None, description="migration strength; none leaves activations alone")

    @property
    def reads_rows(self) -> bool:
        """Whether these settings look at calibration rows at all."""
        return self.algorithm == "gptq" or self.smoothquant is not None


class Dynamic(Section):
    """int8 of models that answer in one pass: weights rounded to nearest, activations scaled as they come."""


class CompressSettings(Section):
    """What is left out is not done."""

    calibration: Calibration | None = Field(None, description="rows for the parts that look at data")
    quantise: Quantise | None = None
    dynamic: Dynamic | None = Field(None, description="int8 for encoders with heads, in place of quantise")

    @property
    def parts(self) -> dict[str, Section]:
        """Name -> settings of what is to be done, in order."""
        found: dict[str, Section | None] = {"quantise": self.quantise, "dynamic": self.dynamic}
        return {name: part for name, part in found.items() if part is not None}

    @model_validator(mode="after")
    def what_fits(self) -> CompressSettings:
        if not self.parts:
            raise ValueError("nothing is to be done: set compress.quantise (`quantise: {}` for int8 by GPTQ)")
        if self.quantise is not None and self.dynamic is not None:
            raise ValueError(
                "quantise and dynamic both make integers of the weights: set compress.quantise=null for an encoder, "
                "compress.dynamic=null for a decoder"
            )
        reading = [name for name, part in self.parts.items() if getattr(part, "reads_rows", False)]
        if reading and self.calibration is None:
            raise ValueError(
                f"{' and '.join(reading)} with these settings look at data: set compress.calibration.shards"
            )
        if not reading and self.calibration is not None:
            raise ValueError("nothing here looks at data: set compress.calibration=null")
        return self


class CompressResources(Section):
    cpus: Positive = 2
    address: str | None = None
