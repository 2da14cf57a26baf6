"""LoRA on CPUs by groups: what each row of a mixed batch gets, against the formula, and that the engine's process uses it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.integration  # importing vLLM takes seconds

SLOTS, RANK, INWARD, OUTWARD = 4, 3, 10, 7


@pytest.fixture(scope="module")
def wrapper() -> Any:
    from serving.engines.grouped_lora import GroupedLora

    return GroupedLora(64, 16, "cpu")


def mapped(wrapper: Any, asked: list[int]) -> None:
    """Tell the wrapper which adapter each row asks for: 0 for none, else 10 times its slot, plus ten."""
    mapping = SimpleNamespace(index_mapping=asked, prompt_mapping=asked, is_prefill=True)
    wrapper.update_metadata(mapping, [10, 20, 30, None], SLOTS, 100)


@pytest.mark.parametrize("asked", [[10, 0, 20, 10, 0, 30], [20] * 6, [0] * 6, [0, 0, 0, 0, 0, 30]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_gets_its_own_adapter(wrapper, asked, dtype):
    made = torch.Generator().manual_seed(0)
    a = torch.randn(SLOTS, 1, RANK, INWARD, generator=made).to(dtype)
    b = torch.randn(SLOTS, 1, OUTWARD, RANK, generator=made).to(dtype)
    c = torch.randn(SLOTS, 1, 2, RANK, generator=made).to(dtype)
    x = torch.randn(len(asked), INWARD, generator=made).to(dtype)
    start = torch.randn(len(asked), OUTWARD + 2, generator=made).to(dtype)
    mapped(wrapper, asked)
    found = start.clone()
    wrapper.add_lora_linear(found, x, (a, a), (b, c), 0.5, (OUTWARD, 2))
    wanted = start.double()
    for row, adapter in enumerate(asked):
        if adapter:
            slot = adapter // 10 - 1
            inner = 0.5 * a[slot, 0].double() @ x[row].double()
            wanted[row] += torch.cat([b[slot, 0].double() @ inner, c[slot, 0].double() @ inner])
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(found.double(), wanted, **close)
    bare = [row for row, adapter in enumerate(asked) if not adapter]
    assert torch.equal(found[bare], start[bare])


def test_embeddings_take_the_second_matrix_alone(wrapper):
    b = torch.randn(SLOTS, 1, OUTWARD, RANK)
    mapped(wrapper, [0, 30])
    found, inner = torch.zeros(2, OUTWARD), torch.randn(2, RANK)
    wrapper.add_lora_embedding(found, inner, b, add_inputs=True)
    torch.testing.assert_close(found, torch.stack([torch.zeros(OUTWARD), b[2, 0] @ inner[1]]))


def test_the_engines_process_uses_it():
    asked = "import serving.engines.preload; from vllm.platforms.cpu import CpuPlatform; print(CpuPlatform.get_punica_wrapper())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.split()[-1] == "serving.engines.grouped_lora.GroupedLora"
