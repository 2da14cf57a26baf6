"""Advice for a run on GPUs of a kind: settings that fit with a margin, what they hold by part, speed, hours, price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manta import hardware
from manta.errors import InputError
from manta.plan.figures import GIB, WORKER_BYTES, Figures, Given
from manta.plan.sources import Training

if TYPE_CHECKING:
    from manta.models.memory import Setting

MARGIN = 0.1  # of a GPU's memory, left to what the allocator cannot use
CONTEXT_BYTES = int(1.5 * GIB)  # CUDA, cuBLAS and NCCL, before anything is allocated
# A pass over fewer tokens leaves the matrix units waiting; one over more is no faster, and only holds more.
FEW_TOKENS, MANY_TOKENS = 2048, 16384
RECOMPUTED = 4 / 3  # operations of a step with activation checkpointing: the forward pass twice


def advise(recipe: Training, config: dict[str, Any], setting: Setting, figures: Figures, given: Given) -> None:
    """Fill in the figures for `given.gpus` GPUs of the kind `given.gpu`, one to a worker.

    Chosen is what computes nothing twice, before what does; what has FEW_TOKENS a pass; the lowest ZeRO stage; the
    largest micro-batch up to MANY_TOKENS. Raises InputError where nothing fits.
    """
    assert given.gpu is not None
    gpu, count = hardware.named(given.gpu), given.gpus or recipe.resources.workers
    batch = figures["batch_rows"]
    if batch % count:
        raise InputError(
            f"--gpus {count}: a global batch of {batch} rows cannot be shared by them: make it a multiple of {count}"
        )
    room = int(gpu.memory_bytes * (1.0 - MARGIN))
    tried = list(_choices(replace(setting, workers=count, gpu=True, offload="none"), batch // count))
    fitting = [choice for choice in tried if sum(held(config, choice).values()) <= room]
    if not fitting:
        least = min(sum(held(config, choice).values()) for choice in tried)
        raise InputError(
            f"--gpu {given.gpu} --gpus {count}: a worker needs {least / GIB:.1f} GiB at least, of {room / GIB:.1f} GiB that a GPU has "
            f"with a margin of {MARGIN:.0%}: name more GPUs or larger ones, or a smaller model"
        )
    best = min(fitting, key=_cost)
    mine = held(config, best)
    total = sum(mine.values())
    figures |= {"gpu": given.gpu, "gpus": count, "accumulation": best.accumulation}
    figures["recommended"] = {
        "resources.workers": count, "resources.gpus_per_worker": 1, "resources.zero_stage": best.zero_stage,
        "resources.micro_batch": best.micro_batch, "resources.activation_checkpointing": best.checkpointing,
    }  # fmt: skip
    figures["memory_per_worker"] = {f"{name}_bytes": size for name, size in mine.items()} | {
        "total_bytes": total, "gpu_bytes": gpu.memory_bytes, "free_bytes": gpu.memory_bytes - total,
    }  # fmt: skip
    from manta.models import memory

    # The whole model is built in fp32 before it is shared out; later there is the copy that checkpoints are written from.
    built = figures["parameters"] * memory.FP32
    figures["host_memory_per_worker_bytes"] = WORKER_BYTES + max(built, memory.snapshot(config, best))
    _time(recipe, gpu, count, best, figures, given)


def held(config: dict[str, Any], setting: Setting) -> dict[str, int]:
    """Bytes of a GPU by part, at the moment when it holds most."""
    from manta.models import memory

    return memory.training(config, setting) | {"process": CONTEXT_BYTES}


def _choices(setting: Setting, share: int) -> Iterator[Setting]:
    """Settings that give each worker its `share` of the rows of a step."""
    from manta.train.optimizers import SUPPORTED

    micros = [n for n in range(1, share + 1) if share % n == 0 and n * setting.seq_len <= MANY_TOKENS] or [1]
    for checkpointing in (False, True):
        for stage in range(4):
            if SUPPORTED[setting.optimizer, stage]:
                continue
            for micro in micros:
                yield replace(
                    setting,
                    checkpointing=checkpointing,
                    zero_stage=stage,
                    micro_batch=micro,
                    accumulation=share // micro,
                )


def _cost(setting: Setting) -> tuple[bool, bool, int, int]:
    few = setting.micro_batch * setting.seq_len < FEW_TOKENS
    return (setting.checkpointing, few, setting.zero_stage, -setting.micro_batch)


def _time(recipe: Training, gpu: hardware.Gpu, count: int, best: Setting, figures: Figures, given: Given) -> None:
    if "flops" not in figures:
        return
    mfu = given.mfu / (RECOMPUTED if best.checkpointing else 1.0)
    rate = count * mfu * gpu.peak(recipe.optimizer.precision)
    trials = figures.get("trials", 1)
    figures["mfu"] = round(mfu, 3)
    figures["tokens_per_s"] = figures["tokens"] * trials * rate / figures["flops"]
    figures["hours"] = figures["flops"] / rate / 3600
    again = " (a quarter of it goes into computing activations again)" if best.checkpointing else ""
    figures["notes"].append(
        f"hours assume {given.mfu:.0%} of {gpu.peak(recipe.optimizer.precision) / 1e12:,.0f} TFLOP/s a GPU{again}, by the datasheet; say --mfu if "
        "yours reach another share"
    )
    if given.price_per_gpu_hour is not None:
        figures["cost"] = round(figures["hours"] * count * given.price_per_gpu_hour, 2)
        figures["notes"].append(f"cost is at {given.price_per_gpu_hour:g} an hour for each GPU")
