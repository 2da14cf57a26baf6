"""Families of models that Manta builds from scratch, and which objective trains which; nothing here loads torch."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError
from manta.models.families import bart, bert, gpt2, llama, lstm, t5
from manta.models.families.family import Config, Family, Kind, Shape, Stack

__all__ = ["BY_NAME", "FAMILIES", "KINDS", "Config", "Family", "Kind", "Shape", "Stack", "mismatch", "suited"]

BY_NAME: dict[str, Family] = {
    "llama": llama.FAMILY,
    "gpt2": gpt2.FAMILY,
    "bert": bert.FAMILY,
    "t5": t5.FAMILY,
    "bart": bart.FAMILY,
    "lstm": lstm.FAMILY,
}
FAMILIES: dict[str, Kind] = {name: family.kind for name, family in BY_NAME.items()}
# objective -> what it trains.
KINDS: dict[str, Kind] = {
    "clm": "decoder",
    "distillation": "decoder",
    "mlm": "encoder",
    "multi_mlm": "encoder",
    "nsp": "encoder",
    "denoising": "encoder_decoder",
}
WORDS: dict[Kind, str] = {"decoder": "decoder", "encoder": "encoder", "encoder_decoder": "encoder-decoder"}


def suited(config: Config, objective: str) -> dict[str, Any]:
    """`config` with the class in `architectures` that `objective` trains, for a family of ours.

    Raises InputError if the objective does not train models of this kind.
    """
    name = str(config["model_type"])
    family = BY_NAME[name]
    if objective not in family.architectures:
        raise mismatch(name, family.kind, objective)
    return {**config, "architectures": [family.architectures[objective]]}


def mismatch(name: str, kind: Kind, objective: str) -> InputError:
    """The refusal of a model of this type and kind under an objective of another, with what would fit."""
    # Distillation is part of compressing, no choice of a recipe for training.
    objectives = [known for known, trained in KINDS.items() if trained == kind and known != "distillation"]
    families = [known for known, trained in FAMILIES.items() if trained == KINDS[objective]]
    return InputError(
        f"objective.name = {objective!r} trains {WORDS[KINDS[objective]]}s, and a model of type {name!r} is no such: set "
        f"objective.name to {' or '.join(objectives)}, or choose model.family of {', '.join(families)}"
    )
