"""DeepSpeed's configuration as a pure function of the recipe's decisions."""

from __future__ import annotations

from typing import Any

from manta.sections.optimisation import Optimizer
from manta.sections.train import TrainResources

LARGEST_BUCKET = 500_000_000  # numbers; DeepSpeed's own size of a bucket, whatever the model's


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

    `moving` is how many weights are trained: no bucket of gradients is made larger than they are together.

    ZeRO: arXiv:1910.02054.
    """
    zero: dict[str, Any] = {"stage": resources.zero_stage}
    zero["reduce_bucket_size"] = zero["allgather_bucket_size"] = max(1, min(LARGEST_BUCKET, moving))
    if resources.gpus_per_worker == 0:
        # A CPU has no second stream to overlap communication on: overlapping only adds copies.
        zero["overlap_comm"] = False
    if resources.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_micro_batch_size_per_gpu": resources.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": resources.micro_batch * accumulation * resources.workers,
        "bf16": {"enabled": optimizer.precision == "bf16"},
        "gradient_clipping": optimizer.grad_clip if wrapped(optimizer, resources) else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # those we offer are tested here: see optimizers.SUPPORTED
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 2**62,  # Manta reports; DeepSpeed need not
    }
