"""What a recipe will cost before anything starts: size, memory by part, disk, work, rough hours; refuses what cannot fit."""

from __future__ import annotations

from typing import Any

from manta.plan import others, training
from manta.plan.figures import GIB, Figures, Given, text
from manta.schema import PipelineRecipe, Recipe

__all__ = ["GIB", "Figures", "Given", "plan", "text"]


def plan(recipe: Recipe | PipelineRecipe, given: Given | None = None) -> Figures:
    """The figures of a recipe, bytes and seconds as numbers; `notes` says what is assumed or not knowable yet.

    `measured` names those that were taken from a few steps of the recipe itself. Loads neither torch nor Ray unless
    `given.measure`. Raises InputError when the recipe cannot fit this machine, or the GPUs that are given, with what
    would.
    """
    figures: Figures = {"kind": recipe.kind, "name": recipe.name, "notes": []}
    PLANS[recipe.kind](recipe, figures, given or Given())
    return figures


PLANS: dict[str, Any] = {
    "prepare": others.prepare,
    "pretrain": training.train,
    "finetune": training.train,
    "tune": training.tune,
    "compress": others.compress,
    "evaluate": others.evaluate,
    "generate": others.generate,
    "serve": others.serve,
    "pipeline": others.pipeline,
}
