"""How long a run is, how its global batch is shared out, and the learning rate of each step: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from manta.errors import InputError
from manta.sections.optimisation import Schedule
from manta.sections.resources import TrainResources
from manta.sections.train import Batch, Stop


class _Trains(Protocol):
    """What both pre-training and fine-tuning recipes state."""

    @property
    def batch(self) -> Batch: ...
    @property
    def stop(self) -> Stop: ...
    @property
    def resources(self) -> TrainResources: ...


def batch_rows(batch: Batch, seq_len: int) -> int:
    """Rows of a global batch. Raises InputError when batch.tokens is no multiple of the row length."""
    if batch.samples is not None:
        return batch.samples
    assert batch.tokens is not None
    if batch.tokens % seq_len:
        lower = max(1, batch.tokens // seq_len) * seq_len
        raise InputError(
            f"batch.tokens = {batch.tokens} is not a multiple of the {seq_len} tokens of a row: "
            f"set batch.tokens={lower} or batch.tokens={lower + seq_len}"
        )
    return batch.tokens // seq_len


def planned_steps(stop: Stop, rows: int, num_rows: int, seq_len: int) -> int:
    """Optimizer steps until the stop condition holds: `rows` a step, from `num_rows` rows of `seq_len` tokens."""
    if stop.steps is not None:
        return stop.steps
    wanted = stop.tokens / seq_len if stop.tokens is not None else (stop.epochs or 0) * num_rows
    return max(1, math.ceil(round(wanted / rows, 9)))


def accumulation(rows: int, resources: TrainResources) -> int:
    """Forward passes of a worker per step. Raises InputError when the global batch cannot be shared out evenly."""
    workers, micro_batch = resources.workers, resources.micro_batch
    if rows % workers:
        fitting = max(n for n in range(1, workers + 1) if rows % n == 0)
        raise InputError(
            f"the global batch of {rows} rows cannot be shared by resources.workers = {workers}: "
            f"set resources.workers={fitting}, or make the batch a multiple of {workers}"
        )
    share = rows // workers
    if share % micro_batch:
        fitting = max(n for n in range(1, micro_batch + 1) if share % n == 0)
        raise InputError(
            f"each worker gets {share} rows of the global batch of {rows}, which resources.micro_batch = {micro_batch} "
            f"does not divide: set resources.micro_batch={fitting}"
        )
    return share // micro_batch


def _constant(_: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _one_minus_root(progress: float) -> float:
    """What Hägele et al. found best for the decay at the end (arXiv:2405.18392, section 3)."""
    return 1.0 - math.sqrt(progress)


# progress of the decay, in [0, 1] -> height above the floor, from 1 to 0
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _one_minus_root,
}


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """The learning rate of `step` (from 0): a linear warm-up whose first step is above zero, then the decay.

    The last step has the rate min_lr_fraction * peak (but for `constant`). `wsd` stays at the peak until the last
    decay_fraction of the steps, the others decay from the end of the warm-up on. A function of its arguments alone, so
    a resumed run has the rates of one that was never stopped.
    """
    warmup = round(schedule.warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    top = warmup  # the last step at the peak
    if schedule.decay_fraction is not None:
        top = max(warmup, steps - 1 - max(1, round(schedule.decay_fraction * steps)), 0)
    progress = max(0, step - top) / max(1, steps - 1 - top)
    height = SCHEDULES[schedule.name](min(1.0, progress))
    return peak * (schedule.min_lr_fraction + (1.0 - schedule.min_lr_fraction) * height)
