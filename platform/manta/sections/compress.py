"""The vocabulary of `compress`: what is done to a model, each part alone or all of them, always in the order in which they stand."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from manta.sections.base import Positive, Section, Shards
from manta.sections.prune import Prune, Vocabulary
from manta.sections.quantise import Quantise


class Calibration(Section):
    """Rows of text that a model reads while it is compressed, so that what it does with them shows what may go."""

    shards: Shards | None = Field(None, description="null: what the model was trained on, as its lineage tells")
    samples: Positive | Literal["auto"] = Field(64, description="auto: doubled until what layers read hardly changes")
    seq_len: Positive = Field(256, description="tokens of a row, at most")


class Dynamic(Section):
    """int8 of models that answer in one pass: weights rounded to nearest, activations scaled as they come."""


class CompressSettings(Section):
    """What is left out is not done."""

    calibration: Calibration | None = Field(None, description="rows for the parts that look at data")
    vocabulary: Vocabulary | None = None
    prune: Prune | None = None
    quantise: Quantise | None = None
    dynamic: Dynamic | None = Field(None, description="int8 for encoders with heads, in place of quantise")

    @property
    def parts(self) -> dict[str, Section]:
        """Name -> settings of what is to be done, in order."""
        found: dict[str, Section | None] = {
            "vocabulary": self.vocabulary,
            "prune": self.prune,
            "quantise": self.quantise,
            "dynamic": self.dynamic,
        }
        return {name: part for name, part in found.items() if part is not None}

    @property
    def rows(self) -> Calibration | None:
        """The rows that the parts look at: as set, or as by default; None where no part looks at any."""
        reading = any(getattr(part, "reads_rows", False) for part in self.parts.values())
        return (self.calibration or Calibration()) if reading else None

    @model_validator(mode="after")
    def what_fits(self) -> CompressSettings:
        if not self.parts:
            raise ValueError(
                "nothing is to be done: set compress.quantise (`quantise: {}` for int8 by GPTQ), compress.prune or compress.vocabulary"
            )
        if self.quantise is not None and self.dynamic is not None:
            raise ValueError(
                "quantise and dynamic both make integers of the weights: set compress.quantise=null for an encoder, "
                "compress.dynamic=null for a decoder"
            )
        if self.vocabulary is not None and (self.calibration is None or self.calibration.shards is None):
            raise ValueError("a vocabulary is trimmed to the tokens of a text: set compress.calibration.shards")
        if self.rows is None and self.calibration is not None:
            raise ValueError("nothing here looks at data: set compress.calibration=null")
        return self


class CompressResources(Section):
    cpus: Positive = 2
    address: str | None = None
