"""What a head says of labelled examples: a model that was fine-tuned for a task, asked through Transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import copies, explanations
from manta.evaluate.robustness import trial
from manta.schema import EvaluateRecipe
from manta.sections.tasks import ClassificationTask, RelationsTask
from manta.tasks import LABELLING, WINDOWED, examples, labels, relations
from manta.tasks.encoding import labelled as encoding
from manta.tasks.encoding import rows
from manta.tasks.labels import Labels, Row

SPLIT = "validation"
AT_ONCE = 16  # examples of like length, computed together
INPUTS = ("input_ids", "token_type_ids", "attention_mask")  # columns that a model reads
# task -> the objective that trains its head, and how the class that has it is called.
HEADS = {
    "classification": ("sequence_labels", "ForSequenceClassification"),
    "tagging": ("token_labels", "ForTokenClassification"),
    "relations": ("sequence_labels", "ForSequenceClassification"),
    "answering": ("spans", "ForQuestionAnswering"),
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


def measure(
    recipe: EvaluateRecipe, model: Path, inputs: dict[str, Resolved], note: Any, source: Resolved | None = None
) -> dict[str, Any]:
    """{predictions, references, confidence: per example, labels}, with what is not measured as in `measure.measure`.

    `source` is where several workers find the model.
    """
    settings = recipe.evaluate.task
    assert settings is not None
    task, known = LABELLING[settings.name], _labels(recipe, model)
    found = examples.read(inputs, SPLIT, recipe.data, settings)
    chosen = examples.choose(found, recipe.evaluate.task_samples)
    _refuse_other_labels(chosen, known, settings)
    tokenizer = labels.tokenizer(model)
    given = {field.name for field in task.FIELDS if field.kind not in ("label", "labels", "tags", "answers")}

    def answered(some: Sequence[dict[str, Any]]) -> tuple[list[Any], list[list[float]]]:
        bare = [{name: value for name, value in example.items() if name in given} for example in some]
        encoded = encoding.rows_of(settings, bare, tokenizer, known, _shown)
        found = _ask(recipe, model, encoded, labels.filler(tokenizer), known, source)
        if settings.name not in WINDOWED:
            return found
        told: tuple[list[Any], list[list[float]]] = task.joined(found[0], [each["context"] for each in some], settings)
        return told

    predictions, confidence = answered(chosen)
    note(f"{len(predictions)} examples labelled")
    outcome = {
        "nll": [],
        "tokens": [],
        "predictions": predictions,
        "references": [task.reference(example, settings) for example in chosen],
        "confidence": confidence,
        "labels": list(known.names),
        "engine_gap": None,
    }
    # Other questions are asked apart, so that these figures are the same whatever else is asked.
    again = trial.again(recipe, inputs, chosen)
    changed = trial.listed(again)
    answers = answered(changed)[0] if changed else []
    wanted = [task.reference(example, settings) for example in changed]
    outcome |= trial.perturbed(recipe, chosen, again, predictions, answers, wanted)
    return outcome | trial.attacked(recipe, inputs, model, chosen) | explanations.measured(recipe, model, chosen)


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
    if isinstance(settings, RelationsTask):
        relations.refuse_unknown_none(settings, known)
    return known


def _shown(example: labels.Example) -> str:
    """An example by what it asks."""
    return repr(example["question"]) if "question" in example else repr(labels.shown(example))


def _refuse_other_labels(chosen: list[dict[str, Any]], known: Labels, settings: Any) -> None:
    named = {name for example in chosen for name in LABELLING[settings.name].named(example, settings)}
    if other := sorted(named - set(known.names)):
        raise InputError(
            f"data.examples: the examples have the labels {', '.join(map(repr, other))}, which the model was not taught; it knows "
            f"{', '.join(map(repr, known.names))}: take examples of these, or fine-tune with the others"
        )


def _ask(
    recipe: EvaluateRecipe, model: Path, encoded: list[Row], pad_id: int, known: Labels, source: Resolved | None
) -> tuple[list[Any], list[list[float]]]:
    """Predictions and probabilities of each row, in their order; of windows what they say by themselves, and none."""
    by_length = sorted(range(len(encoded)), key=lambda place: len(encoded[place].columns["input_ids"]))
    together = [by_length[first : first + AT_ONCE] for first in range(0, len(by_length), AT_ONCE)]
    parts = [[encoded[place] for place in places] for places in together]
    if recipe.resources.workers > 1 and source is not None:  # the same rows are computed together, whoever does it
        said = copies.spread(copies.of(recipe, source), _Copy, (recipe, source, pad_id, known), parts)
    else:
        said = _Head(recipe, model, pad_id, known)(parts)
    answers = {
        place: answer
        for places, part in zip(together, said, strict=True)
        for place, answer in zip(places, part, strict=True)
    }
    return [answers[place][0] for place in range(len(encoded))], [answers[place][1] for place in range(len(encoded))]


class _Head:
    """A model with its head: rows that are computed together -> for each of them its (prediction, probabilities)."""

    def __init__(self, recipe: EvaluateRecipe, model: Path, pad_id: int, known: Labels):
        import transformers

        from manta.models.classes import AUTO
        from manta.models.load import opened

        self.settings, self.known = recipe.evaluate.task, known
        assert self.settings is not None
        self.task = LABELLING[self.settings.name]
        auto = getattr(transformers, AUTO[HEADS[self.settings.name][0]][0])
        self.head = opened(model, recipe.evaluate.dtype, auto)
        self.padded = {"input_ids": pad_id, **self.task.PADDED}

    def __call__(self, parts: Sequence[list[Row]]) -> list[list[tuple[Any, list[float]]]]:
        return [self._judge(part) for part in parts]

    def _judge(self, part: list[Row]) -> list[tuple[Any, list[float]]]:
        import torch

        assert self.settings is not None
        columns = rows.stacked(part, max(len(row.columns["input_ids"]) for row in part), self.padded)
        shown = {name: torch.from_numpy(columns[name]).long() for name in INPUTS if name in columns}
        with torch.inference_mode():
            found = self.head(**shown)
        # (rows, labels), (rows, seq, labels) or, of starts and ends of answers, (rows, 2, seq)
        given = torch.stack([found.start_logits, found.end_logits], 1) if "start_logits" in found else found.logits
        logits = given.float().numpy()
        said = self.task.decode(logits, columns, self.known, self.settings, part)
        windowed = self.settings.name in WINDOWED
        sure = [[]] * len(part) if windowed else self.task.confidence(logits, columns, self.settings)
        return list(zip(said, sure, strict=True))


class _Copy(_Head):
    """One of several, in a process of its own, maybe on another machine."""

    def __init__(self, recipe: EvaluateRecipe, source: Resolved, pad_id: int, known: Labels):
        from manta.models.load import model_folder

        with model_folder(source) as model:
            super().__init__(recipe, model, pad_id, known)
