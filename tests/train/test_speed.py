"""Speed and memory: arithmetic by hand, known hardware by its whole name, unknown hardware not guessed."""

from __future__ import annotations

import timeit

import numpy as np
import pytest
import torch

from manta.train import speed

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100-PCIE-40GB", 312e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 66.9e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA H200", 989.4e12, 66.9e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12),
    ],
)
def test_known_hardware(name: str, bf16: float, fp32: float) -> None:
    assert (speed.gpu_peak(name, "bf16"), speed.gpu_peak(name, "fp32")) == (bf16, fp32)


@pytest.mark.parametrize(
    "name", ["NVIDIA L40", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H200 MIG 1g.18gb", ""]
)  # fmt: skip
def test_hardware_that_only_sounds_alike_is_unknown(name: str) -> None:
    assert speed.gpu_peak(name, "bf16") is None
    assert speed.mfu(1e6, 1e9, speed.gpu_peak(name, "bf16"), 8) is None


def test_utilisation_by_hand() -> None:
    """50,000 tokens a second of a model of 6e9 operations a token on two devices of 1e15."""
    assert speed.mfu(50_000, 6e9, 1e15, 2) == pytest.approx(0.15)


def test_a_processors_peak_is_what_it_reaches() -> None:
    """No slower than one product by hand, and no faster than any processor of today with one thread."""
    a = torch.ones(512, 512)
    by_hand = 2 * 512**3 / min(timeit.repeat(lambda: torch.mm(a, a), number=1, repeat=5))
    assert 0.3 * by_hand < speed.cpu_peak("fp32", seconds=0.2) < 1e12


def test_the_pace_is_that_of_the_last_steps() -> None:
    pace = speed.Pace(window=3)
    found = [pace.add(100, seconds) for seconds in (10.0, 1.0, 1.0, 2.0)]
    assert found == pytest.approx([10.0, 200 / 11, 300 / 12, 300 / 4])


def test_memory_now_and_at_most() -> None:
    before = speed.memory()
    held = np.ones(512 * 2**20, np.uint8)
    during = speed.memory()
    size = held.nbytes
    del held
    after = speed.memory()
    assert during["rss"] - before["rss"] > 0.9 * size
    assert during["pss"] - before["pss"] > 0.9 * size
    assert after["rss"] < during["rss"] - 0.5 * size
    assert after["rss_peak"] > 0.99 * during["rss"]  # the kernel counts in batches
    assert before["pss"] <= before["rss"] * 1.05
