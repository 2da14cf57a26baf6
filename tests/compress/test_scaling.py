"""Scales moved before rounding leave a model as it is in real numbers, and a mixed choice is the best that fits."""

from __future__ import annotations

import itertools

import pytest
import torch

from manta.compress.quantising import blocks, grids, scaling, schemes
from manta.compress.quantising.schemes import SCHEMES
from manta.compress.quantising.sensitivity import KEPT, Choice, allocate
from manta.errors import InputError


def model(kind: str = "llama", heads: int = 2):
    """Two blocks with outliers in two channels, whose four heads share `heads` keys and values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, vocab_size=50, num_key_value_heads=heads, head_dim=8, **sizes)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for block in blocks.blocks(made)[1]:
        block.input_layernorm.weight.data[3] = 20.0
    return made


@torch.inference_mode()
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize(
    "tried",
    [scaling.SEARCHED_AWQ, ((scaling.smoothquant, 0.8),), ((scaling.by_mean, 0.6),)],
    ids=["awq", "most", "mean"],
)
def test_moved_scales_change_no_output(tried: tuple[scaling.Candidate, ...], heads: int) -> None:
    found = model(heads=heads)
    rows = torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(1))
    before = found(input_ids=rows).logits
    kept = {name: layer.weight.clone() for name, layer in blocks.names(found)}
    chunks = blocks.begin(found, [{"input_ids": rows}])
    for block in blocks.blocks(found)[1]:
        readings = blocks.observe(block, chunks, torch.float32)
        own = {name: SCHEMES["w4a16"](layer.in_features, 32) for name, layer in blocks.linears(block).items()}
        scaling.move(block, readings, own, tried, chunks[0], torch.float32, 8)
        again = blocks.observe(block, chunks, torch.float32)
        for one, other in zip(readings, again, strict=True):  # what was measured moved along
            assert torch.allclose(one.hessian, other.hessian, rtol=1e-3, atol=1e-5 * float(other.hessian.max()))
        blocks.advance(block, chunks, torch.float32)
    assert torch.allclose(found(input_ids=rows).logits, before, atol=1e-4)
    changed = [name for name, layer in blocks.names(found) if not torch.allclose(layer.weight, kept[name])]
    assert {name.rpartition(".")[2] for name in changed} >= {"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"}


@torch.inference_mode()
def test_norms_that_are_no_plain_factors_are_refused() -> None:
    found = model("gemma")  # whose norms multiply by 1 + weight
    rows = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))
    chunks = blocks.begin(found, [{"input_ids": rows}])
    block = blocks.blocks(found)[1][0]
    readings = blocks.observe(block, chunks, torch.float32)
    own = {name: SCHEMES["w8a8"](layer.in_features, None) for name, layer in blocks.linears(block).items()}
    with pytest.raises(InputError, match="scales cannot be moved"):
        scaling.move(block, readings, own, ((scaling.smoothquant, 0.8),), chunks[0], torch.float32, 8)


@pytest.mark.parametrize("outlier", ["one token", "one channel"])
def test_smoothquant_s_search_finds_what_to_move(outlier: str) -> None:
    """A channel that is large in every token is smoothed; one that is large in one token costs the others nothing."""
    draw = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(256, 32, generator=draw), torch.randn(48, 32, generator=draw)
    inputs[:, 5] *= 40.0 if outlier == "one channel" else 1.0
    inputs[7, 9] = 2000.0 if outlier == "one token" else 0.5
    size = inputs.abs()
    reading = blocks.Reading(["layer"], inputs.t() @ inputs / 256, size.mean(0), size.amax(0), inputs, 256)
    scheme = SCHEMES["w8a8"](32, None)

    def lost(scale: torch.Tensor) -> float:
        seen, scaled = inputs / scale, weight * scale
        steps = grids.fit(scaled, scheme.grid, seen.square().mean(0))
        made = schemes.rounded_inputs(seen, scheme) @ grids.values(grids.nearest(scaled, steps, scheme.grid), steps).t()
        error = (made - inputs @ weight.t()).square().sum(-1) / (inputs @ weight.t()).square().sum(-1)
        return float(error.mean())

    found = lost(scaling.search(reading, weight, scheme, scaling.SEARCHED_SMOOTHQUANT))
    plain = lost(torch.ones(32))
    everywhere = lost(scaling.smoothquant(reading, weight, 0.8))
    assert found <= min(plain, everywhere) * (1 + 1e-5)
    if outlier == "one channel":
        assert found < 0.5 * plain
    else:
        assert found < 0.7 * everywhere


def test_a_choice_is_the_cheapest_that_fits() -> None:
    costs = [(0.9, 0.10), (0.5, 0.02), (0.1, 0.09), (0.3, 0.001)]
    choices = [[Choice(KEPT, 16, 0.0), Choice("w8a8", 8, eight), Choice("w4a16", 4, four)] for four, eight in costs]
    for budget in (16, 20, 24, 28, 36, 64):
        picked = allocate(choices, budget)
        assert picked is not None
        assert sum(each.bytes for each in picked) <= budget
        best = min(
            sum(each.cost for each in some)
            for some in itertools.product(*choices)
            if sum(each.bytes for each in some) <= budget
        )
        assert sum(each.cost for each in picked) <= best + 0.1  # greedy: off by a step that did not fit, at most
    assert [each.scheme for each in allocate(choices, 64) or []] == [KEPT] * 4
    assert allocate(choices, 15) is None
