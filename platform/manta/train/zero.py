"""DeepSpeed's configuration as a pure function of the recipe's decisions."""

from __future__ import annotations

from typing import Any

from manta.sections.optimisation import Optimizer
from manta.sections.train import TrainResources


def config(optimizer: Optimizer, resources: TrainResources, accumulation: int, universal: bool) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`. `universal`: the checkpoint to load is a universal one.

    ZeRO: arXiv:1910.02054.
    """
    zero: dict[str, Any] = {"stage": resources.zero_stage}
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
        "gradient_clipping": optimizer.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # those we offer are tested here: see optimizers.SUPPORTED
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 2**62,  # Manta reports; DeepSpeed need not
    }
