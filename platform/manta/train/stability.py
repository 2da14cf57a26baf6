"""What to do about a step that went wrong: a pure state machine over losses and gradient norms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from manta.sections.optimisation import Stability

TO_DEVIATION = 1.4826  # median absolute deviation -> standard deviation, where values are normally distributed
SMALLEST = 1e-3  # of the median: losses that hardly vary must not make every ripple a spike


@dataclass(frozen=True)
class State:
    """What is remembered of the steps; plain values, stored with each checkpoint."""

    losses: list[float] = field(default_factory=list)  # of the last good steps, at most a window of them
    in_row: int = 0  # bad steps in a row
    last_bad: int = -1  # the furthest step that was bad
    passed_over: list[list[int]] = field(default_factory=list)  # [first, last] steps whose batches are left out
    left_out: int = 0  # updates, in all
    beside: list[list[float]] = field(default_factory=list)  # as `losses`, of a mix's other streams from the second on


@dataclass(frozen=True)
class Verdict:
    """What becomes of a step: `why` is for the log, or the message the run ends with."""

    action: Literal["go_on", "skip", "roll_back", "stop"]
    why: str = ""


def feed(
    state: State, step: int, loss: float, grad_norm: float | None, settings: Stability, stream: int = 0
) -> tuple[Verdict, State]:
    """Judge `step` (from 0) before its update: the verdict, and the state after it.

    `loss` is the mean over all ranks and `grad_norm` the global norm (None where it is not known yet), so every rank
    comes to the same verdict. Bad is a loss or norm that is not finite, or a loss more than `spike_deviations`
    deviations above the median of the last `window` good steps; the deviation is 1.4826 times the median absolute one,
    so neither a few outliers nor the steep fall of the first steps move the threshold down. A full window is needed.
    Steps that an earlier roll-back condemned are skipped, whatever their loss. The steps of a mix are compared with those
    of their own `stream`: what is high for one task is usual for another.
    """
    if any(first <= step <= last for first, last in state.passed_over):
        return Verdict("skip", f"step {step} is passed over"), replace(state, left_out=state.left_out + 1)
    wrong = _wrong(_of(state, stream), loss, grad_norm, settings)
    if not wrong:
        calm = step > state.last_bad + (settings.window if settings.policy == "roll_back" else 0)
        losses = [*_of(state, stream), loss][-settings.window :]
        return Verdict("go_on"), replace(_with(state, stream, losses), in_row=0 if calm else state.in_row)
    wrong = f"{wrong} at step {step}"
    bad = replace(state, in_row=state.in_row + 1, last_bad=max(step, state.last_bad))
    if settings.policy == "stop" or bad.in_row > settings.tolerated:
        return Verdict("stop", _farewell(wrong, bad.in_row, settings)), bad
    if settings.policy == "skip":
        return Verdict("skip", f"{wrong}: its update is left out"), replace(bad, left_out=bad.left_out + 1)
    first = max(0, step - 2**bad.in_row + 1)
    why = f"{wrong}: back to the newest checkpoint, then without the batches of steps {first} to {step}"
    return Verdict("roll_back", why), replace(bad, passed_over=[*bad.passed_over, [first, step]])


def after_restart(of_checkpoint: State | None, beside: State | None) -> State:
    """The state with which a run carries on from a checkpoint: its losses, and what was learnt since it was written.

    `beside` is what a roll-back left behind: the checkpoint it goes back to does not know of the bad step.
    """
    of_checkpoint = of_checkpoint or State()
    if beside is None or beside.last_bad <= of_checkpoint.last_bad:
        return of_checkpoint
    return replace(beside, losses=of_checkpoint.losses, beside=of_checkpoint.beside)


def _of(state: State, stream: int) -> list[float]:
    """The losses that a step of this stream is compared with."""
    return [state.losses, *state.beside][stream] if stream <= len(state.beside) else []


def _with(state: State, stream: int, losses: list[float]) -> State:
    if stream == 0:
        return replace(state, losses=losses)
    every = [_of(state, number) for number in range(1, max(len(state.beside), stream) + 1)]
    return replace(state, beside=[*every[: stream - 1], losses, *every[stream:]])


def _wrong(losses: Sequence[float], loss: float, grad_norm: float | None, settings: Stability) -> str:
    """What is wrong with a step, or nothing."""
    if not math.isfinite(loss):
        return f"the loss became {loss}"
    if grad_norm is not None and not math.isfinite(grad_norm):
        return f"the gradient's norm became {grad_norm}"
    if settings.spike_deviations is None or len(losses) < settings.window:
        return ""
    middle = statistics.median(losses)
    deviation = TO_DEVIATION * statistics.median(abs(value - middle) for value in losses)
    height = (loss - middle) / max(deviation, SMALLEST * abs(middle))
    if height <= settings.spike_deviations:
        return ""
    return f"the loss of {loss:.4g} is {height:.1f} deviations above the median {middle:.4g} of the {len(losses)} steps before"


def _farewell(wrong: str, in_row: int, settings: Stability) -> str:
    remedy = "lower optimizer.lr or optimizer.grad_clip, or raise schedule.warmup_fraction"
    if settings.policy == "stop":
        return f"{wrong}: {remedy}; or set stability.policy=skip to leave such updates out"
    done = "left out" if settings.policy == "skip" else "rolled back"
    return (
        f"{wrong}, after {in_row - 1} in a row were {done} (stability.tolerated = {settings.tolerated}): {remedy}; or "
        f"resume with a higher stability.tolerated"
    )
