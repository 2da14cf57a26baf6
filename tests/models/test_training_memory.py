"""Memory of a worker: what ZeRO spreads, what each optimizer and precision keeps, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from manta.models import formulas, memory
from manta.models.memory import Setting
from tests.models.samples import VOCAB, config

SEVEN = config("llama-7b", vocab=32000)
WEIGHTS = 6_738_415_616  # of Llama 2 7B


def parts(**changes: Any) -> dict[str, int]:
    return memory.training(SEVEN, Setting(**{"seq_len": 4096, "micro_batch": 1, "gpu": True, **changes}))


def test_a_7b_under_stage_3_holds_16_bytes_a_weight_shared_by_eight() -> None:
    """bf16 weights and gradients, fp32 weights and two moments: 2 + 2 + 12, a share of one in eight."""
    found = parts(workers=8, zero_stage=3)
    assert found["weights"] + found["gradients"] + found["optimizer"] == 16 * WEIGHTS // 8
    assert found["weights"] == found["gradients"] == 2 * WEIGHTS // 8


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(1, 2, 2, 12 / 4), (2, 2, 2 / 4, 12 / 4), (3, 2 / 4, 2 / 4, 12 / 4)],
)
def test_stages_spread_what_they_should(stage: int, weights: float, gradients: float, optimizer: float) -> None:
    found = parts(workers=4, zero_stage=stage)
    assert [found[name] / WEIGHTS for name in ("weights", "gradients", "optimizer")] == [weights, gradients, optimizer]


@pytest.mark.parametrize(
    ("optimizer", "momentum", "bytes_a_weight"),
    [("adamw", True, 8), ("adam", True, 8), ("lion", True, 4), ("muon", True, 4), ("sgd", True, 4), ("sgd", False, 0)],
)
def test_what_optimizers_keep(optimizer: str, momentum: bool, bytes_a_weight: int) -> None:
    plain = parts(zero_stage=0, precision="fp32", optimizer=optimizer, momentum=momentum)
    aside = 4 * (2 * 32000 + 1) * 4096 if optimizer == "muon" else 0  # tables and last norm have AdamW's two
    assert plain["optimizer"] == bytes_a_weight * WEIGHTS + aside
    spread = parts(zero_stage=2, workers=2, precision="fp32", optimizer=optimizer, momentum=momentum)
    assert spread["optimizer"] == ((bytes_a_weight + 4) * WEIGHTS + aside) // 2, "stage 2 steps weights of its own"


def test_what_does_not_move_has_neither_gradient_nor_moments() -> None:
    few = parts(zero_stage=2, workers=2, trainable=1_000_000)
    assert (few["gradients"], few["optimizer"]) == (1_000_000, 6_000_000)
    assert few["weights"] == 2 * WEIGHTS


def test_the_optimizer_may_leave_the_gpu() -> None:
    assert parts(zero_stage=2, workers=2, offload="optimizer")["optimizer"] == 0


def test_the_logits_are_of_the_predicted_positions() -> None:
    """Three fp32 values a logit: its logarithm, the logarithm's gradient, its own."""
    kept = formulas.activations(config("bert-tiny"), 128, "fp32")
    found = memory.training(config("bert-tiny"), Setting(128, 4, precision="fp32", scored=0.25))
    assert found["activations"] == 4 * (kept + 32 * VOCAB * 12)
    kept = formulas.activations(config("t5-tiny"), 128, "bf16", target_len=50)
    found = memory.training(config("t5-tiny"), Setting(128, 4, target_len=50))
    assert found["activations"] == 4 * (kept + 50 * VOCAB * 12)


def test_checkpointing_and_isolation_reach_the_activations() -> None:
    spread: dict[str, Any] = {"workers": 8, "zero_stage": 2}
    plain = parts(**spread)["activations"]
    assert 0 < parts(**spread, checkpointing=True)["activations"] < plain / 5
    assert parts(**spread, isolated=True)["activations"] - plain == 32 * 2 * 4096 * 4096, (
        "a mask of bf16 in each of 32 layers"
    )


def test_the_bucket_of_a_gpu_is_there_in_whole() -> None:
    """Stage 3 has it at all times: by default half a billion numbers; beside it at most a billion gathered weights."""
    default = parts(workers=64, zero_stage=3)["buffers"]
    assert default - parts(workers=64, zero_stage=3, bucket_bytes=2 * 10**8)["buffers"] == 2 * 500_000_000 - 2 * 10**8


def test_a_cpu_also_holds_what_its_checkpoints_are_written_from() -> None:
    """fp32 weights, and of two workers each half of the weights that are stepped and of two moments."""
    found = parts(gpu=False, precision="fp32", workers=2, zero_stage=1)
    assert found["snapshot"] == 4 * WEIGHTS + 12 * WEIGHTS // 2
    assert "snapshot" not in parts(), "with a GPU it is in the host's memory"
    assert memory.snapshot(SEVEN, Setting(4096, 1, workers=8, zero_stage=3)) == 12 * WEIGHTS // 8
