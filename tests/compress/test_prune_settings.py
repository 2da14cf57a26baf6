"""Settings of pruning: what cannot be cut or means nothing is refused with a remedy, and shares are rounded to what exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from manta.compress import prune
from manta.errors import InputError
from manta.sections.prune import Prune

LLAMA = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
         "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 4, "layer_norm_epsilon": 1e-5}
BERT = {
    "model_type": "bert",
    "hidden_size": 62,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("config", "settings", "remedy"),
    [
        ({"model_type": "t5"}, {"layers": 0.5}, r"type 't5' cannot be cut: .* of type llama, mistral, gpt2, bert"),
        (LLAMA, {"layers": 0.01}, r"of 30 blocks takes none: set compress\.prune\.layers=0\.03333"),
        (LLAMA, {"layers": 0.99}, r"of 30 blocks takes all: set compress\.prune\.layers=0\.9667"),
        (LLAMA, {"heads": 0.1}, r"3 groups of 3 heads that share keys, .* set compress\.prune\.heads=0\.3333 or more"),
        (
            LLAMA,
            {"intermediate": 0.01},
            r"of 1536 leaves 1536 as a multiple of 64: raise compress\.prune\.intermediate",
        ),
        (
            GPT2,
            {"heads": 0.5},
            r"a head is hidden size / heads wide, so both go together: set both to 0\.5, or neither",
        ),
        (BERT, {"layers": 0.5, "depth": "loss"}, r"set compress\.prune\.depth=influence"),
        (BERT, {"sparsity": {"share": 0.5, "pattern": "2:4"}}, r"62, no multiple of 4: set .*pattern=unstructured"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_a_remedy(
    tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], remedy: str
) -> None:
    from manta.storage import Folder

    with pytest.raises(InputError, match=remedy):
        prune.check(Prune.model_validate(settings), config, Folder(tmp_path))


def test_shares_are_rounded_to_what_exists(tmp_path: Path) -> None:
    from manta.compress.pruning import anatomy

    found = anatomy.of(LLAMA, "compress.prune")
    old = anatomy.sizes(LLAMA, found)
    assert prune.num_removed(0.25, old.layers) == 8
    sizes = prune.wanted(Prune(intermediate=0.25, heads=0.4, hidden=0.2), old, found)
    assert sizes == (1152, 2, 448)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "nothing is to go"),
        ({"sparsity": {"share": 0.4, "pattern": "2:4"}}, r"set share=0\.5"),
        ({"layers": 1.0}, "less than 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Prune.model_validate(settings)
