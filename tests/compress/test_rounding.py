"""The arithmetic of quantisation against hand calculations and direct formulas in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manta.compress.quantising import packing
from manta.compress.quantising.blocks import Chunk, Reading, observe
from manta.compress.quantising.gptq import DAMPENING, gptq
from manta.compress.quantising.grids import Grid, fit, nearest, refit, values
from manta.compress.quantising.schemes import SCHEMES, rounded_inputs

INT8, INT4, FP8 = Grid(8), Grid(4, 4), Grid(8, kind="float")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reading(inputs: torch.Tensor) -> Reading:
    size = inputs.abs()
    hessian = inputs.t() @ inputs / len(inputs)
    return Reading(["layer"], hessian, size.mean(0), size.amax(0), inputs, len(inputs))


def test_int8_uses_the_whole_range_of_each_row() -> None:
    weight = torch.tensor([[1.27, -0.5, 0.004], [0.0, 0.0, 0.0]])
    scale = fit(weight, INT8)
    assert scale[:, 0].tolist() == pytest.approx([0.01, 1.0])
    assert nearest(weight, scale, INT8).tolist() == [[127, -50, 0], [0, 0, 0]]


def test_the_sign_of_an_int4_scale_puts_the_eighth_step_where_the_outermost_weight_is() -> None:
    weight = torch.tensor([[8.0, -7.0, 3.0, 1.0, -8.0, 7.0, 3.0, 1.0]])
    scale = fit(weight, INT4)
    assert scale.tolist() == [[-1.0, 1.0]]
    codes = nearest(weight, scale, INT4)
    assert codes.tolist() == [[-8, 7, -3, -1, -8, 7, 3, 1]]
    assert torch.equal(values(codes, scale), weight)


def test_a_group_is_cut_where_its_outermost_weight_hardly_matters() -> None:
    weight = torch.tensor([[8.0, 0.7, 2.1, -1.4]])
    plain = float(fit(weight, INT4).abs())
    ignored = float(fit(weight, INT4, torch.tensor([1e-6, 1.0, 1.0, 1.0])).abs())
    assert plain >= 1.0
    assert ignored == pytest.approx(0.7, rel=0.01)  # bfloat16


def test_fp8_rounds_to_the_numbers_of_the_format() -> None:
    weight = torch.tensor([[448.0, 17.0, -0.3]])
    codes = nearest(weight, fit(weight, FP8), FP8)
    assert codes.tolist() == [[448.0, 16.0, -0.3125]]  # three bits of mantissa; 17 lies between 16 and 18, ties to even


def test_gptq_follows_the_formula_of_the_paper() -> None:
    """Column by column with the inverse Hessian of what is left, recomputed in float64 each time (arXiv:2210.17323, eq. 2)."""
    weight, inputs = normal(5, 12), normal(64, 12, seed=1) * torch.linspace(0.2, 3.0, 12)
    hessian = inputs.t() @ inputs / 64
    scale = fit(weight, INT4, hessian.diagonal())
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist()
    left = hessian.double().numpy().copy()
    left += DAMPENING * left.diagonal().mean() * np.eye(12)
    rest, expected = weight.double().numpy().copy(), np.zeros((5, 12))
    steps = scale.double().numpy().repeat(4, axis=1)
    for place, column in enumerate(order):
        free = order[place:]
        inverse = np.linalg.inv(left[np.ix_(free, free)])
        expected[:, column] = np.clip(np.round(rest[:, column] / steps[:, column]), -8, 7)
        error = rest[:, column] - expected[:, column] * steps[:, column]
        rest[:, free] -= np.outer(error / inverse[0, 0], inverse[0])
    assert gptq(weight, hessian, scale, INT4).tolist() == expected.tolist()


def test_gptq_and_new_scales_lose_less_of_the_output_than_rounding() -> None:
    mixing = normal(16, 16, seed=2)
    inputs, weight = normal(256, 16, seed=1) @ mixing, normal(24, 16)
    hessian = inputs.t() @ inputs / 256

    def lost(codes: torch.Tensor, scale: torch.Tensor) -> float:
        return float((inputs @ (values(codes, scale) - weight).t()).square().mean())

    scale = fit(weight, INT4, hessian.diagonal())
    plain, clever = nearest(weight, scale, INT4), gptq(weight, hessian, scale, INT4)
    assert lost(clever, scale) < 0.8 * lost(plain, scale)
    assert lost(clever, refit(weight, clever, hessian, scale, INT4)) < lost(clever, scale)


def test_new_scales_are_the_least_squares_of_the_outputs() -> None:
    inputs, weight = normal(200, 8, seed=3), normal(2, 8)
    hessian = inputs.t() @ inputs / 200
    grid = INT4._replace(scale_dtype="float32")
    scale = fit(weight, grid)
    codes = nearest(weight, scale, grid)
    found = refit(weight, codes, hessian, scale, grid)
    for row in range(2):
        parts = torch.stack([(inputs[:, s] @ codes[row, s]) for s in (slice(0, 4), slice(4, 8))], 1)
        exact = torch.linalg.lstsq(parts.double(), (inputs @ weight[row]).double()[:, None]).solution[:, 0]
        assert found[row].tolist() == pytest.approx(exact.tolist(), rel=0.02)


def test_codes_survive_packing() -> None:
    codes = torch.arange(-8, 8).repeat(3, 4).float()
    words = packing.pack(codes)
    assert words.shape == (3, 8)
    assert words[0, 0].item() == 0x76543210  # the first code, -8, is the lowest four bits
    assert torch.equal(packing.unpack(words).float(), codes)


def test_packed_words_are_those_of_compressed_tensors() -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = torch.randint(-8, 8, (6, 64), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(packing.pack(codes), pack_to_int32(codes.to(torch.int8), 4))


@pytest.mark.parametrize(("name", "bound"), [("w8a8", 0.5 / 127), ("fp8", 1 / 16), ("w4a16", 0.0)])
def test_each_token_is_rounded_with_a_scale_of_its_own(name: str, bound: float) -> None:
    inputs = normal(4, 32) * torch.tensor([[1e-3], [1.0], [50.0], [1e4]])
    error = (rounded_inputs(inputs, SCHEMES[name](32, None)) - inputs).abs().amax(-1) / inputs.abs().amax(-1)
    assert float(error.max()) <= bound * 1.001
    assert bound == 0.0 or float(error.min()) > 0.2 * bound


def test_a_group_divides_a_layers_inputs() -> None:
    assert [SCHEMES["w4a16"](size, None).grid.group for size in (576, 1536, 96)] == [64, 128, 32]
    with pytest.raises(ValueError, match="576 inputs cannot be cut into groups of 128"):
        SCHEMES["w4a16"](576, 128)


class Block(torch.nn.Module):
    """Two layers that read the same and one that reads what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = torch.nn.Linear(6, 8), torch.nn.Linear(6, 8), torch.nn.Linear(8, 6)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.down(self.gate(hidden) * self.up(hidden))


@torch.inference_mode()
def test_padding_is_not_read() -> None:
    block, hidden = Block(), normal(2, 5, 6)
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    first, second = observe(block, [Chunk(hidden, {}, real)], torch.float32)
    assert (first.names, second.names) == (["gate", "up"], ["down"])
    tokens = hidden[real]
    assert first.tokens == 7
    assert torch.allclose(first.hessian, tokens.t() @ tokens / 7, atol=1e-5)
    assert torch.allclose(first.most, tokens.abs().amax(0))
    between = block.gate(tokens) * block.up(tokens)
    assert torch.allclose(second.hessian, between.t() @ between / 7, atol=1e-5)


def test_hessians_of_several_chunks_are_those_of_all_rows() -> None:
    block, hidden = Block(), normal(3, 5, 6)
    with torch.inference_mode():
        whole = observe(block, [Chunk(hidden, {}, None)], torch.float32)
        parts = observe(block, [Chunk(hidden[:2], {}, None), Chunk(hidden[2:], {}, None)], torch.float32)
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one.hessian, other.hessian, atol=1e-5)
        assert torch.allclose(one.mean, other.mean, atol=1e-6)


def test_weights_that_are_dropped_leave_memory(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from manta.compress.quantising.memory import release

    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:")) * 1024

    save_file({"a": torch.ones(4 << 20), "b": torch.full((4 << 20,), 2.0)}, tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors")
    assert float(found["a"].sum() + found["b"].sum()) == 3 * (4 << 20)  # all pages were touched
    before = resident()
    release(found["a"])
    assert before - resident() > 15 << 20
    assert float(found["b"].sum()) == 2 * (4 << 20)
    heap = torch.ones(1 << 20)
    release(heap)  # no file behind it: it stays what it is
    assert float(heap.sum()) == 1 << 20
