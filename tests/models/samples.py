"""One small model of each family, what trains it, and the figures that articles give for the larger ones."""

from __future__ import annotations

from typing import Any

import torch

from manta.models import presets
from manta.models.build import build
from manta.sections.model import NewModel

torch.set_num_threads(1)

SPECIAL: dict[str, int | None] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
OBJECTIVES = {
    "llama": "clm", "gpt2": "clm", "lstm": "clm", "bert": "mlm", "t5": "denoising", "bart": "denoising",
}  # fmt: skip
VOCAB = 300


def config(preset: str, objective: str | None = None, vocab: int = VOCAB, **sizes: Any) -> dict[str, Any]:
    """config.json of a preset, trained by what its family is trained by."""
    family = presets.OF_PRESET[preset]
    new = NewModel.model_validate({"preset": preset, **sizes})
    return presets.config(new, vocab, SPECIAL, objective or OBJECTIVES[family])


def objective_of(settings: dict[str, Any]) -> str:
    return OBJECTIVES[settings["model_type"]]


def tiny(family: str, seed: int = 0, objective: str | None = None, vocab: int = VOCAB, **sizes: Any) -> Any:
    """The family's smallest model."""
    chosen = objective or OBJECTIVES[family]
    return build(config(f"{family}-tiny", chosen, vocab, **sizes), seed, chosen)


def on_meta(settings: dict[str, Any], objective: str) -> Any:
    """The model without its weights' memory."""
    with torch.device("meta"):
        return build(settings, 0, objective)


def inputs(family: str, rows: int = 2, seq: int = 24, target: int = 12) -> dict[str, torch.Tensor]:
    """What the model's forward reads, text at random."""
    draw = torch.Generator().manual_seed(seq)
    found = {"input_ids": torch.randint(3, VOCAB, (rows, seq), generator=draw)}
    if OBJECTIVES[family] == "denoising":
        found["decoder_input_ids"] = torch.randint(3, VOCAB, (rows, target), generator=draw)
    return found
