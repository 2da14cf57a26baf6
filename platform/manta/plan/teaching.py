"""Plans of distillation: a pass of the teacher before training and what it stores, or a teacher in each worker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manta.plan import sources
from manta.plan.figures import Figures
from manta.plan.sources import Rows, Training
from manta.schema import PretrainRecipe
from manta.sections.objective import Distillation, Taught

if TYPE_CHECKING:
    from manta.models.memory import Setting

FORWARD = 1 / 3  # of a trained token's operations


def planned(
    recipe: Training, config: dict[str, Any], rows: Rows, setting: Setting, figures: Figures
) -> tuple[Setting, int]:
    """What the memory's formulas want to know with the teacher in it, and the bytes of disk that its answers take.

    `config` is the student's. The figures get `teacher_parameters` and `teacher_flops`: of a stored teacher those of its
    own pass, over rows that no epoch repeats; those of one at hand are also part of `flops`.
    """
    path, settings = (
        ("objective", recipe.objective) if isinstance(recipe, PretrainRecipe) else ("distil", recipe.distil)
    )
    if not isinstance(settings, Taught):
        return setting, 0
    found = sources.source_config(f"{path}.teacher", settings.teacher, recipe.output, figures["notes"])
    if found is None:
        return setting, 0
    from manta.models import formulas, memory
    from manta.objectives.stored import words

    size, vocab = memory.BYTES[recipe.optimizer.precision], formulas.shape(found).vocab
    figures["teacher_parameters"] = formulas.num_parameters(found)
    stored = settings if isinstance(settings, Distillation) and settings.teacher_mode == "stored" else None
    if stored is None:
        setting = replace(setting, teacher=figures["teacher_parameters"] * size, told=rows.seq_len * vocab * size)
    if "tokens" not in figures:
        return setting, 0
    tokens = figures["tokens"]
    if stored is not None and rows.num_rows is not None:
        tokens = min(tokens, rows.num_rows * rows.seq_len)
    figures["teacher_flops"] = round(FORWARD * tokens * formulas.flops_per_token(found, rows.seq_len))
    if stored is None:
        figures["flops"] += figures["teacher_flops"] * figures.get("trials", 1)
        return setting, 0
    student = formulas.shape(config).vocab
    figures["teacher_bytes"] = 4 * tokens * words(min(stored.likeliest, vocab, student), student)
    return setting, figures["teacher_bytes"]


def hours(figures: Figures) -> None:
    """How long a stored teacher's own pass takes, at the speed of training."""
    if "teacher_bytes" in figures and "hours" in figures:
        figures["teacher_hours"] = figures["hours"] * figures["teacher_flops"] / figures["flops"]
