"""What every section of a recipe is made of: the strict base class, the mark of inputs, the common types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Input:
    """Marks a field that names what another stage left (or a file): part of a run's lineage.

    A bare word is a sibling under the recipe's `output`; anything with a slash is a path or URL; `package:NAME` is a
    pretrained model that an installed Python package ships.
    """

    kinds: tuple[str, ...]  # artifact kinds that fit, for the error message


Shards = Annotated[str, Input(("prepare", "generate"))]
Examples = Annotated[str, Input(("prepare", "generate", "file"))]
ExampleFile = Annotated[str, Input(("file",))]
TokenizerSource = Annotated[str, Input(("prepare", "pretrain", "finetune", "tune", "compress", "package", "directory"))]
Model = Annotated[str, Input(("pretrain", "finetune", "tune", "compress", "package", "directory"))]
Adapter = Annotated[str, Input(("finetune", "tune", "adapter"))]
Evaluation = Annotated[str, Input(("evaluate",))]
Sweep = Annotated[str, Input(("tune",))]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """Strict at every depth: unknown keys and loose types are refused, values are never rewritten."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())
