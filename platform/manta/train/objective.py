"""What a recipe trains: pre-training names its objective, of fine-tuning it follows from the task and the model's kind."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError
from manta.models import classes
from manta.models.families import Kind
from manta.schema import FinetuneRecipe, PretrainRecipe, TuneRecipe
from manta.sections.objective import Clm, Objective, SequenceLabels, TokenLabels
from manta.sections.tasks import ClassificationTask, TaggingTask
from manta.tasks.labels import Labels

# task -> the kinds of models that it can be taught to.
SUITED: dict[str, tuple[Kind, ...]] = {
    "summarisation": ("decoder",),
    "chat": ("decoder",),
    "classification": ("encoder", "decoder"),
    "tagging": ("encoder",),
}
KINDS_SAID: dict[Kind, str] = {
    "encoder": "an encoder, such as one of type bert",
    "decoder": "a decoder, such as one of type llama or gpt2",
    "encoder_decoder": "an encoder with a decoder, such as one of type t5 or bart",
}


def objective_of(
    recipe: PretrainRecipe | FinetuneRecipe | TuneRecipe, config: dict[str, Any], labels: Labels | None = None
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
    found: Objective = Clm(name="clm")
    if isinstance(task, ClassificationTask):
        weights = labels.balanced() if labels is not None and task.class_weights == "balanced" else None
        found = SequenceLabels(name="sequence_labels", several=task.several, weights=weights)
    elif isinstance(task, TaggingTask):
        found = TokenLabels(name="token_labels")
    classes.suited(config, found.name)  # refuses types that have no such head
    return found
