"""What a recipe trains: pre-training names its objective, of fine-tuning it follows from the task and the model's kind."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError
from manta.models import classes
from manta.models.families import Kind
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.objective import (
    AnswerSpan,
    Clm,
    Contrast,
    Denoising,
    Distillation,
    Objective,
    Preference,
    SequenceLabels,
    TokenLabels,
)
from manta.sections.tasks import (
    AnsweringTask,
    ClassificationTask,
    EmbeddingTask,
    PreferenceTask,
    RelationsTask,
    TaggingTask,
)
from manta.tasks.labels import Labels

# task -> the kinds of models that it can be taught to.
SUITED: dict[str, tuple[Kind, ...]] = {
    "summarisation": ("decoder", "encoder_decoder"),
    "translation": ("decoder", "encoder_decoder"),
    "chat": ("decoder",),
    "classification": ("encoder", "decoder"),
    "tagging": ("encoder",),
    "relations": ("encoder", "decoder"),
    "answering": ("encoder",),
    "preference": ("decoder",),
    "embedding": ("encoder",),
}
KINDS_SAID: dict[Kind, str] = {
    "encoder": "an encoder, such as one of type bert",
    "decoder": "a decoder, such as one of type llama or gpt2",
    "encoder_decoder": "an encoder with a decoder, such as one of type t5 or bart",
}


def objective_of(
    recipe: PretrainRecipe | FinetuneRecipe, config: dict[str, Any], labels: Labels | None = None
) -> Objective:
    """The objective of a recipe for a model of `config` (the content of its config.json).

    `labels` are those of a labelling task's training examples, from which the weights of classes follow; without them
    there are none. Raises InputError for a model that the task cannot be taught to.
    """
    if isinstance(recipe, PretrainRecipe):
        return recipe.objective
    task, kind = recipe.task, classes.kind(config)
    if kind not in SUITED[task.name]:
        raise InputError(
            f"model.source = {recipe.model.source!r} is of type {config['model_type']!r}, {KINDS_SAID[kind].partition(',')[0]}, and "
            f"task.name = {task.name!r} is taught to {' or '.join(KINDS_SAID[each] for each in SUITED[task.name])}: choose "
            "another model.source"
        )
    found: Objective = Denoising(name="denoising") if kind == "encoder_decoder" else Clm(name="clm")
    if isinstance(task, ClassificationTask | RelationsTask):
        weights = labels.balanced() if labels is not None and task.class_weights == "balanced" else None
        several = isinstance(task, ClassificationTask) and task.several
        found = SequenceLabels(name="sequence_labels", several=several, weights=weights)
    elif isinstance(task, AnsweringTask):
        found = AnswerSpan(name="spans")
    elif isinstance(task, TaggingTask):
        found = TokenLabels(name="token_labels")
    elif isinstance(task, PreferenceTask):
        found = Preference(name="preference", beta=task.beta, label_smoothing=task.label_smoothing)
    elif isinstance(task, EmbeddingTask):
        found = Contrast(name="contrast", group=task.group, temperature=task.temperature)
    if recipe.distil is not None:
        if not isinstance(found, Clm):
            raise InputError(
                f"distil: task.name = {task.name!r} with a model of type {config['model_type']!r} is taught by examples alone, only answers "
                "that a decoder writes can be learnt from a teacher: set distil=null"
            )
        found = Distillation(name="distillation", teacher_mode="live", **dict(recipe.distil))
    classes.suited(config, found.name)  # refuses types that have no such head
    return found
