"""Gradual unfreezing: from which depth on weights move in a step, as a function of the step alone."""

from __future__ import annotations

from manta.sections.optimisation import Unfreezing


def lowest(step: int, layers: int, settings: Unfreezing | None) -> int:
    """The depth (as in optimizers.Depths) of the lowest weights that move in `step` (from 0); 0 once all do.

    At first the top `settings.layers` layers and what stands above them, then as many more every `every_steps` steps,
    and the embeddings once all layers move (ULMFiT, arXiv:1801.06146, section 3.3).

    DeepSpeed fixes what is trained when it starts, so weights that wait have a rate of 0 instead. Each optimizer
    multiplies update and decay by the rate, so they keep every bit. Two things differ from weights that take no
    gradient: theirs counts in the norm that is clipped, and their moments are already warm when they join.
    """
    if settings is None:
        return 0
    joined = step // settings.every_steps * settings.layers  # layers that joined after the first ones
    if joined >= layers:
        return 0
    return max(1, layers + 1 - joined - settings.layers)


def all_move_at(layers: int, settings: Unfreezing) -> int:
    """The first step in which every weight moves."""
    return -(-layers // settings.layers) * settings.every_steps
