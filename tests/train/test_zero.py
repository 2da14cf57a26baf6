"""DeepSpeed's configuration follows from the recipe, and what would mean nothing is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from manta.errors import InputError
from manta.sections.optimisation import Optimizer
from manta.sections.resources import Communication, TrainResources
from manta.train.zero import check, config


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


# --- the remaining settings of `resources` ---------------------------------------------------------------------------


def made(precision: str = "bf16", **resources: Any) -> dict[str, Any]:
    optimizer = Optimizer.model_validate({"precision": precision})
    return config(optimizer, TrainResources.model_validate(resources), 1, False)


def test_without_settings_deepspeed_keeps_its_own_ways() -> None:
    found = made(gpus_per_worker=1)
    whole = {"reduce_bucket_size": 500_000_000, "allgather_bucket_size": 500_000_000}
    assert found["zero_optimization"] == {"stage": 1, **whole}
    assert not {"communication_data_type", "zero_force_ds_cpu_optimizer"} & found.keys()


@pytest.mark.parametrize("overlap", [True, False])
def test_overlap_is_the_recipes_where_there_are_streams(overlap: bool) -> None:
    found = made(gpus_per_worker=1, zero_stage=2, communication={"overlap": overlap})
    assert found["zero_optimization"]["overlap_comm"] is overlap


def test_a_model_of_an_odd_number_of_weights_has_an_even_bucket() -> None:
    """A head for three labels makes it odd, and DeepSpeed's stages 1 and 2 refuse that."""
    found = config(Optimizer(), TrainResources(zero_stage=1), 1, False, moving=1001)["zero_optimization"]
    assert (found["reduce_bucket_size"], found["allgather_bucket_size"]) == (1001, 1002)


def test_buckets_are_bytes_for_the_recipe_and_numbers_for_deepspeed() -> None:
    bucket = {"bucket_bytes": 2**20}
    found = made("fp32", zero_stage=2, communication=bucket)["zero_optimization"]
    assert found["reduce_bucket_size"] == found["allgather_bucket_size"] == 2**18
    found = made("bf16", zero_stage=3, communication=bucket)["zero_optimization"]
    assert found["reduce_bucket_size"] == found["stage3_prefetch_bucket_size"] == 2**19
    assert "allgather_bucket_size" not in found
    found = made("bf16", zero_stage=1, communication=bucket | {"fp32_sums": True})["zero_optimization"]
    assert (found["reduce_bucket_size"], found["allgather_bucket_size"]) == (2**18, 2**19)


def test_gradients_can_be_added_up_in_fp32() -> None:
    assert made(communication={"fp32_sums": True})["communication_data_type"] == "fp32"
    with pytest.raises(InputError, match=r"fp32_sums = True: with optimizer\.precision = 'fp32'"):
        check(Optimizer(precision="fp32"), TrainResources(communication=Communication(fp32_sums=True)))
    check(Optimizer(precision="bf16"), TrainResources(communication=Communication(fp32_sums=True)))


def test_what_is_offloaded_reaches_deepspeed() -> None:
    found = made(gpus_per_worker=1, zero_stage=2, offload="optimizer")
    assert found["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert "offload_param" not in found["zero_optimization"]
    assert found["zero_force_ds_cpu_optimizer"] is False
    found = made(gpus_per_worker=1, zero_stage=3, offload="optimizer_and_weights")
    assert found["zero_optimization"]["offload_optimizer"] == found["zero_optimization"]["offload_param"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"offload": "optimizer"}, r"in the host's memory already: set resources\.offload=none"),
    ({"offload": "optimizer", "gpus_per_worker": 1, "zero_stage": 0}, r"needs ZeRO.*set resources\.zero_stage=1, 2 or 3"),
    ({"offload": "optimizer_and_weights", "gpus_per_worker": 1, "zero_stage": 2}, r"set resources\.zero_stage=3"),
    ({"communication": {"overlap": True}}, "a CPU has no second stream"),
    ({"communication": {"overlap": False}, "zero_stage": 0}, r"overlap = False is not read with resources\.zero_stage = 0"),
    ({"communication": {"bucket_bytes": 2**20}, "zero_stage": 0}, "bucket_bytes = 1048576 is not read"),
    ({"communication": {"bucket_bytes": 1}}, "greater than or equal to 65536"),
    ({"tensor_parallel": 2}, r"resources\.tensor_parallel = 2 is not offered.*resources\.zero_stage=3"),
    ({"sequence_parallel": 2}, r"resources\.sequence_parallel = 2 is not offered.*resources\.activation_checkpointing=true"),
    ({"pipeline": 2}, r"resources\.pipeline = 2 is not offered.*resources\.zero_stage=3"),
]  # fmt: skip


@pytest.mark.parametrize(("resources", "reason"), REFUSED)
def test_what_means_nothing_is_refused(resources: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainResources.model_validate(resources)
