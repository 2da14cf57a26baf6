"""DeepSpeed's configuration follows from the recipe."""

from __future__ import annotations

import pytest

from manta.sections.optimisation import Optimizer
from manta.sections.train import TrainResources
from manta.train.zero import config


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_batch_arithmetic_holds_for_deepspeed(stage: int) -> None:
    made = config(
        Optimizer(), TrainResources(workers=4, micro_batch=3, zero_stage=stage), accumulation=2, universal=False
    )
    assert (
        made["train_batch_size"]
        == made["train_micro_batch_size_per_gpu"] * made["gradient_accumulation_steps"] * 4
        == 24
    )
    assert made["zero_optimization"]["stage"] == stage
    assert made["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", False) == (stage == 3)


def test_precision_clipping_and_conversion() -> None:
    made = config(Optimizer(precision="fp32", grad_clip=0.5), TrainResources(), accumulation=1, universal=True)
    assert made["bf16"] == {"enabled": False}
    assert made["gradient_clipping"] == 0.5
    assert made["checkpoint"] == {"load_universal": True}
    assert config(Optimizer(), TrainResources(), 1, False)["bf16"] == {"enabled": True}


def test_overlap_is_only_for_devices_with_streams() -> None:
    assert (
        config(Optimizer(), TrainResources(gpus_per_worker=0), 1, False)["zero_optimization"]["overlap_comm"] is False
    )
    assert "overlap_comm" not in config(Optimizer(), TrainResources(gpus_per_worker=1), 1, False)["zero_optimization"]


def test_no_bucket_is_larger_than_the_model() -> None:
    small = config(Optimizer(), TrainResources(zero_stage=2), 1, False, moving=1000)["zero_optimization"]
    large = config(Optimizer(), TrainResources(zero_stage=2), 1, False, moving=7 * 10**9)["zero_optimization"]
    assert small["reduce_bucket_size"] == small["allgather_bucket_size"] == 1000
    assert large["reduce_bucket_size"] == large["allgather_bucket_size"] == 500_000_000


def test_gradients_are_clipped_once() -> None:
    plain = config(Optimizer(precision="fp32"), TrainResources(zero_stage=0), 1, False)
    assert plain["gradient_clipping"] == 0.0  # the engine does it
