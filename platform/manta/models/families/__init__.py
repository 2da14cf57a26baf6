"""Families of models that Manta builds from scratch, and which objective trains which; nothing here loads torch."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError
from manta.models.families import bart, bert, gpt2, llama, lstm, t5
from manta.models.families.family import HEADS, Config, Family, Kind, Shape, Stack

__all__ = ["BY_NAME", "FAMILIES", "HEADS", "KINDS", "Config", "Family", "Kind", "Shape", "Stack", "mismatch", "suited"]

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
KINDS: dict[str, tuple[Kind, ...]] = {
    "clm": ("decoder",),
    "distillation": ("decoder",),
    "mlm": ("encoder",),
    "multi_mlm": ("encoder",),
    "nsp": ("encoder",),
    "denoising": ("encoder_decoder",),
    "sequence_labels": ("encoder", "decoder"),
    "token_labels": ("encoder",),
    "spans": ("encoder",),
    "preference": ("decoder",),
    "contrast": ("encoder",),
}
# Objectives that no recipe names: part of a task that fine-tuning teaches.
IMPLIED = {"preference", "contrast", *HEADS}
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
    families = [known for known in FAMILIES if objective in BY_NAME[known].architectures]
    if objective in HEADS:
        return InputError(
            f"model.source is of type {name!r}, and what the task trains, a head for {HEADS[objective]}, goes on models of type "
            f"{', '.join(families)} and those like them: choose another model.source"
        )
    objectives = [known for known, kinds in KINDS.items() if kind in kinds and known not in IMPLIED]
    trained = " and ".join(f"{WORDS[known]}s" for known in KINDS[objective])
    return InputError(
        f"objective.name = {objective!r} trains {trained}, and a model of type {name!r} is no such: set "
        f"objective.name to {' or '.join(objectives)}, or choose model.family of {', '.join(families)}"
    )
