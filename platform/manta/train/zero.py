"""DeepSpeed's configuration as a pure function of the recipe's decisions."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError
from manta.sections.optimisation import Optimizer
from manta.sections.resources import TrainResources

LARGEST_BUCKET = 500_000_000  # numbers; DeepSpeed's own size of a bucket, whatever the model's


def check(optimizer: Optimizer, resources: TrainResources) -> None:
    """Raise InputError for what the two sections only say together to be without meaning."""
    if resources.communication.fp32_sums and optimizer.precision == "fp32":
        raise InputError(
            "resources.communication.fp32_sums = True: with optimizer.precision = 'fp32' gradients are sent in fp32 as it is: "
            "leave it out"
        )


def wrapped(optimizer: Optimizer, resources: TrainResources) -> bool:
    """Whether DeepSpeed puts an optimizer of its own around ours, which measures and clips the gradients in passing.

    Where it does not, it clips in a pass over them that forgets the norm, so the engine does that itself.
    """
    return resources.zero_stage > 0 or optimizer.precision == "bf16"


def config(
    optimizer: Optimizer,
    resources: TrainResources,
    accumulation: int,
    universal: bool,
    moving: int = LARGEST_BUCKET,
) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`. `universal`: the checkpoint to load is a universal one.

    `moving` is how many weights are trained: no bucket is made larger than they are together.

    ZeRO: arXiv:1910.02054; what is moved to the host's memory: arXiv:2101.06840.
    """
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": resources.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": resources.micro_batch * accumulation * resources.workers,
        "bf16": {"enabled": optimizer.precision == "bf16"},
        "gradient_clipping": optimizer.grad_clip if wrapped(optimizer, resources) else 0.0,
        "zero_optimization": _zero(optimizer, resources, moving),
        "zero_allow_untested_optimizer": True,  # those we offer are tested here: see optimizers.SUPPORTED
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 2**62,  # Manta reports; DeepSpeed need not
    }
    if resources.communication.fp32_sums:
        made["communication_data_type"] = "fp32"
    if resources.offload != "none":
        # Ours step on the CPU as well; DeepSpeed would else insist on its own, which is compiled at the first step.
        made["zero_force_ds_cpu_optimizer"] = False
    return made


def _zero(optimizer: Optimizer, resources: TrainResources, moving: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": resources.zero_stage}
    overlap = resources.communication.overlap
    if resources.gpus_per_worker == 0:
        # A CPU has no second stream to overlap communication on: overlapping only adds copies.
        overlap = False
    if overlap is not None:
        zero["overlap_comm"] = overlap
    if resources.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    # DeepSpeed counts numbers, not bytes: gradients of the type they travel in, weights of their own type.
    bucket, weight = resources.communication.bucket_bytes, 4 if optimizer.precision == "fp32" else 2
    gradient = 4 if resources.communication.fp32_sums else weight
    zero["reduce_bucket_size"] = max(1, min(moving, bucket // gradient if bucket else LARGEST_BUCKET))
    if resources.zero_stage < 3:
        gathered = min(moving, bucket // weight if bucket else LARGEST_BUCKET)
        zero["allgather_bucket_size"] = max(2, gathered + gathered % 2)  # DeepSpeed refuses odd ones
    elif bucket:
        zero["stage3_prefetch_bucket_size"] = bucket // weight
    if resources.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if resources.offload == "optimizer_and_weights":
        zero["offload_param"] = {"device": "cpu"}
    return zero
