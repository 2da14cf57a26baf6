"""Building and loading: formulas against real models, the same weights everywhere, the presets' promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from manta.artifact import Resolved
from manta.errors import InputError
from manta.models import formulas, presets
from manta.models.build import build
from manta.models.load import load, model_folder
from manta.sections.train import NewModel

SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 2}


def on_meta(model: NewModel, vocab_size: int) -> Any:
    """The model without its weights' memory."""
    with torch.device("meta"):
        return build(presets.config(model, vocab_size, SPECIAL), seed=0)


@pytest.mark.parametrize("preset", list(presets.PRESETS))
def test_parameter_formula_against_the_real_model(preset: str) -> None:
    model = NewModel.model_validate({"preset": preset})
    counted = sum(parameter.numel() for parameter in on_meta(model, 8192).parameters())
    assert formulas.num_parameters(presets.config(model, 8192, {})) == counted


@pytest.mark.parametrize(
    ("preset", "vocab_size", "about"),
    [
        ("llama-7m", 8192, 7e6),
        ("llama-30m", 16384, 30e6),
        ("llama-135m", 49152, 134.5e6),
        ("llama-1b", 32000, 1.1e9),
        ("llama-7b", 32000, 6.74e9),
    ],
)
def test_presets_are_as_large_as_their_names(preset: str, vocab_size: int, about: float) -> None:
    config = presets.config(NewModel.model_validate({"preset": preset}), vocab_size, {})
    assert formulas.num_parameters(config) == pytest.approx(about, rel=0.05)


@pytest.mark.parametrize("preset", list(presets.PRESETS))
def test_heads_are_as_wide_as_the_serving_engine_needs(preset: str) -> None:
    assert presets.config(NewModel.model_validate({"preset": preset}), 64, {})["head_dim"] % 32 == 0


def test_flops_by_hand() -> None:
    """Llama 2 7B at 4096 tokens: 6 x (6.74e9 - 0.13e9 of the input embedding) + 12 x 32 x 4096 x 4096."""
    config = presets.config(NewModel(preset="llama-7b"), 32000, {})
    weights = 6_738_415_616 - 32000 * 4096
    assert formulas.flops_per_token(config, 4096) == 6 * weights + 12 * 32 * 32 * 128 * 4096


def test_zero_stages_spread_what_they_should() -> None:
    config = presets.config(NewModel(preset="llama-1b"), 32000, {})
    stages = [formulas.training_memory(config, 512, 1, 4, stage, "bf16") for stage in range(4)]
    weights = formulas.num_parameters(config)
    assert [s["optimizer"] for s in stages] == [12 * weights, *[12 * weights // 4] * 3]
    assert [s["gradients"] for s in stages] == [2 * weights, 2 * weights, *[2 * weights // 4] * 2]
    assert [s["weights"] for s in stages] == [*[2 * weights] * 3, 2 * weights // 4]


def test_weights_depend_on_the_seed_alone() -> None:
    config = presets.config(NewModel(preset="llama-tiny"), 128, SPECIAL)
    torch.manual_seed(1)
    first = build(config, seed=7).state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second, other = build(config, seed=7).state_dict(), build(config, seed=8).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())  # building disturbs nobody's random numbers
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_initial_deviation() -> None:
    model = build(presets.config(NewModel(preset="llama-tiny"), 2048, SPECIAL), seed=0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.05), name


def test_overrides_and_special_tokens_reach_the_configuration() -> None:
    model = NewModel(preset="llama-tiny", num_layers=3, tie_embeddings=False)
    made = build(presets.config(model, 100, SPECIAL), seed=0)
    assert len(made.model.layers) == 3
    assert made.lm_head.weight is not made.model.embed_tokens.weight
    assert (made.config.bos_token_id, made.config.eos_token_id, made.config.pad_token_id) == (0, 0, 2)


@pytest.mark.parametrize(
    ("sizes", "remedy"),
    [
        ({"num_heads": 7}, "set model.num_heads to 8"),
        ({"num_kv_heads": 3}, "set model.num_kv_heads=2"),
        ({"num_heads": 4, "num_kv_heads": 8}, "set model.num_kv_heads=4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_a_remedy(sizes: dict[str, int], remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        presets.sizes(NewModel(preset="llama-7m", **sizes))


def test_loading_finds_the_model_of_an_artifact_and_of_a_directory(tmp_path: Path) -> None:
    made = build(presets.config(NewModel(preset="llama-tiny"), 128, SPECIAL), seed=0)
    made.save_pretrained(tmp_path / "model")
    for kind, path in (("pretrain", tmp_path), ("directory", tmp_path / "model")):
        with model_folder(Resolved("model.source", "x", kind, str(path), "f", "c")) as folder:
            loaded = load(folder)
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), loaded.parameters(), strict=True))
    assert load(tmp_path / "model", "bf16").dtype == torch.bfloat16
