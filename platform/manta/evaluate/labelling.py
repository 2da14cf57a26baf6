"""What a head says of labelled examples: a model that was fine-tuned for a task, asked through Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.schema import EvaluateRecipe
from manta.sections.tasks import ClassificationTask
from manta.tasks import LABELLING, examples, labels, rows
from manta.tasks.labels import Labels, Row

SPLIT = "validation"
AT_ONCE = 16  # examples of like length, computed together
# task -> the objective that trains its head, and how the class that has it is called.
HEADS = {
    "classification": ("sequence_labels", "ForSequenceClassification"),
    "tagging": ("token_labels", "ForTokenClassification"),
}


def check(recipe: EvaluateRecipe) -> None:
    """Raise InputError for what a head cannot be asked."""
    task, settings = recipe.evaluate.task, recipe.evaluate
    if task is None or task.name not in LABELLING:
        return
    if settings.engine != "transformers":
        raise InputError(
            f"evaluate.engine = {settings.engine!r} writes text, and the labels of task.name = {task.name!r} come from a head: set "
            "evaluate.engine=transformers"
        )
    if recipe.data.shards is not None:
        raise InputError(
            f"data.shards = {recipe.data.shards!r}: a model with a head for task.name = {task.name!r} predicts no text, so it has no "
            "perplexity: set data.shards=null evaluate.perplexity_rows=0"
        )


def measure(recipe: EvaluateRecipe, model: Path, inputs: dict[str, Resolved], note: Any) -> dict[str, Any]:
    """{predictions, references, confidence: per example, labels}, with what is not measured as in `measure.measure`."""
    settings = recipe.evaluate.task
    assert settings is not None
    task, known = LABELLING[settings.name], _labels(recipe, model)
    found = examples.read(inputs, SPLIT, recipe.data, settings)
    chosen = examples.choose(found, recipe.evaluate.task_samples)
    _refuse_other_labels(chosen, known, settings)
    tokenizer = labels.tokenizer(model)
    given = {field.name for field in task.FIELDS if field.kind not in ("label", "labels", "tags")}
    bare = [{name: value for name, value in example.items() if name in given} for example in chosen]
    encoded = [task.encode(example, tokenizer, settings, known) for example in bare]
    predictions, confidence = _ask(recipe, model, encoded, labels.filler(tokenizer), known)
    note(f"{len(predictions)} examples labelled")
    return {
        "nll": [],
        "tokens": [],
        "predictions": predictions,
        "references": [task.reference(example, settings) for example in chosen],
        "confidence": confidence,
        "labels": list(known.names),
        "engine_gap": None,
    }


def _labels(recipe: EvaluateRecipe, model: Path) -> Labels:
    """What the model tells apart. Raises InputError if it has no head for the task."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    settings = recipe.evaluate.task
    assert settings is not None
    if not any(name.endswith(HEADS[settings.name][1]) for name in config.get("architectures") or ()):
        raise InputError(
            f"evaluate.task.name = {settings.name!r}: {model} is a {', '.join(config.get('architectures') or ['model'])}, which has no "
            "head for it: fine-tune it for this task first, and name that run's artifact"
        )
    known = labels.of_config(config)
    several = known.problem == "multi_label_classification"
    if isinstance(settings, ClassificationTask) and several != settings.several:
        raise InputError(
            f"evaluate.task.several = {settings.several}: {model} was trained for {'any number of labels' if several else 'one label'} a "
            f"text: set evaluate.task.several={str(several).lower()}"
        )
    return known


def _refuse_other_labels(chosen: list[dict[str, Any]], known: Labels, settings: Any) -> None:
    named = {name for example in chosen for name in LABELLING[settings.name].named(example, settings)}
    if other := sorted(named - set(known.names)):
        raise InputError(
            f"data.examples: the examples have the labels {', '.join(map(repr, other))}, which the model was not taught; it knows "
            f"{', '.join(map(repr, known.names))}: take examples of these, or fine-tune with the others"
        )


def _ask(
    recipe: EvaluateRecipe, model: Path, encoded: list[Row], pad_id: int, known: Labels
) -> tuple[list[Any], list[list[float]]]:
    """Predictions and probabilities of each row, in their order."""
    import torch
    import transformers

    from manta.models.classes import AUTO

    settings = recipe.evaluate.task
    assert settings is not None
    task = LABELLING[settings.name]
    auto = getattr(transformers, AUTO[HEADS[settings.name][0]][0])
    head = auto.from_pretrained(model, dtype=getattr(torch, recipe.evaluate.dtype), local_files_only=True).eval()
    padded = {"input_ids": pad_id, **task.PADDED}
    by_length = sorted(range(len(encoded)), key=lambda place: len(encoded[place].columns["input_ids"]))
    answers: dict[int, tuple[Any, list[float]]] = {}
    for first in range(0, len(by_length), AT_ONCE):
        places = by_length[first : first + AT_ONCE]
        part = [encoded[place] for place in places]
        columns = rows.stacked(part, max(len(row.columns["input_ids"]) for row in part), padded)
        shown = {name: torch.from_numpy(values).long() for name, values in columns.items() if name != "labels"}
        with torch.inference_mode():
            logits = head(**shown).logits.float().numpy()  # (rows, labels) or (rows, seq, labels)
        said = task.decode(logits, columns, known, settings, part)
        answers |= dict(zip(places, zip(said, task.confidence(logits, columns, settings), strict=True), strict=True))
    return [answers[place][0] for place in range(len(encoded))], [answers[place][1] for place in range(len(encoded))]
