"""One model's measurements under perturbation and attack, and what can be asked of which task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.data.augment import dictionary, wordnet
from manta.data.augment.dictionary import Dictionary
from manta.errors import InputError
from manta.evaluate.classifier import Classifier
from manta.evaluate.robustness import stand_ins
from manta.evaluate.robustness.attack import attack
from manta.evaluate.robustness.variants import READ, told, variants
from manta.schema import EvaluateRecipe
from manta.sections.robustness import Robustness
from manta.sections.tasks import ClassificationTask
from manta.tasks import examples

SETTING = "evaluate.robustness"
SHOWN = 3  # examples of each perturbation that are kept to be read

Inputs = Mapping[str, Resolved]
Example = dict[str, Any]


def check(recipe: EvaluateRecipe) -> None:
    """Raise InputError for what the task cannot be tried with, and for synonyms that are not there."""
    settings, task = recipe.evaluate.robustness, recipe.evaluate.task
    if recipe.evaluate.explain and not isinstance(task, ClassificationTask):
        raise InputError(
            f"evaluate.explain = {recipe.evaluate.explain}: labels of whole texts are explained, those of classification: set "
            "evaluate.explain=0, or evaluate.task.name=classification for a model that was trained for it"
        )
    if settings is None:
        return
    if task is None or task.name not in READ:
        named = f"evaluate.task.name = {task.name!r}" if task else "evaluate.task is not set"
        raise InputError(f"{SETTING}: {named}, and texts are changed for {', '.join(READ)}: set {SETTING}=null")
    if settings.attack is not None and not (isinstance(task, ClassificationTask) and not task.several):
        raise InputError(
            f"{SETTING}.attack: one label is made to change, that of classification with evaluate.task.several=false: set "
            f"{SETTING}.attack=null"
        )
    if settings.dictionary_used and settings.synonyms is None and wordnet.folder() is None:
        raise InputError(f"{SETTING}.synonyms: {wordnet.MISSING}".replace("as path", f"as {SETTING}.synonyms"))


def inventory(recipe: EvaluateRecipe) -> str | None:
    """What a trial depends on that no recipe names: the version of WordNet where it is used."""
    settings = recipe.evaluate.robustness
    return wordnet.inventory() if settings and settings.dictionary_used and settings.synonyms is None else None


def without(recipe: EvaluateRecipe) -> EvaluateRecipe:
    """The recipe for a model that is a yardstick of scores alone."""
    plain = recipe.evaluate.model_copy(update={"robustness": None, "explain": 0})
    return recipe.model_copy(update={"evaluate": plain})


def again(recipe: EvaluateRecipe, inputs: Inputs, chosen: Sequence[Example]) -> dict[str, list[Example]]:
    """perturbation -> the chosen examples under it; none where none is asked for. Raises InputError for a bad dictionary."""
    settings, task = recipe.evaluate.robustness, recipe.evaluate.task
    if settings is None or task is None:
        return {}
    known = _dictionary(settings, inputs) if "synonyms" in settings.perturbations else None
    return variants(chosen, task.name, settings, recipe.seed, known)


def listed(changed: Mapping[str, Sequence[Example]]) -> list[Example]:
    """The examples of all perturbations, one after the other."""
    return [example for some in changed.values() for example in some]


def perturbed(
    recipe: EvaluateRecipe,
    chosen: Sequence[Example],
    changed: Mapping[str, Sequence[Example]],
    predictions: Sequence[Any],
    answers: Sequence[Any],
    references: Sequence[Any],
) -> dict[str, Any]:
    """{"perturbed": {name: {predictions, references, shown}}}, nothing where nothing was perturbed.

    `predictions` are those of `chosen`, `answers` and `references` those of `listed(changed)`. `shown` are a few
    examples whose answer is another one: {example, before, after, answer, answer_after}.
    """
    task = recipe.evaluate.task
    if not changed or task is None:
        return {}
    num, found = len(chosen), {}
    for turn, (name, some) in enumerate(changed.items()):
        part = slice(turn * num, (turn + 1) * num)
        after = list(answers[part])
        moved = [place for place in range(num) if after[place] != predictions[place]]
        found[name] = {
            "predictions": after,
            "references": list(references[part]),
            "shown": [
                {
                    "example": place,
                    "before": told(chosen[place], task.name),
                    "after": told(some[place], task.name),
                    "answer": predictions[place],
                    "answer_after": after[place],
                }
                for place in moved[:SHOWN]
            ],
        }
    return {"perturbed": found}


def attacked(recipe: EvaluateRecipe, inputs: Inputs, model: Path, chosen: Sequence[Example]) -> dict[str, Any]:
    """{"attacked": one row an example}, nothing where no attack is asked for.

    A row is {example, label, answer: names, right, flipped, num_words, num_asked, text, changes: [[place, word, by]],
    answer_after}; an example that is answered wrongly beforehand is not attacked, and has the first four alone.
    """
    settings, task = recipe.evaluate.robustness, recipe.evaluate.task
    if settings is None or settings.attack is None or not isinstance(task, ClassificationTask):
        return {}
    model_of = Classifier(model, recipe.evaluate.dtype, task)
    wanted = settings.attack
    if wanted.words == "neighbours":
        find = stand_ins.of_embeddings(model_of.head, model_of.tokenizer, wanted.candidates)
    else:
        find = stand_ins.of_dictionary(_dictionary(settings, inputs), wanted.candidates)
    names, found = model_of.labels.names, []
    for place in picked(chosen, wanted.examples):
        example = chosen[place]

        def ask(texts: Sequence[str], example: Example = example) -> Any:
            return model_of.log_probabilities([{**example, "text": text} for text in texts])

        before = int(ask([example["text"]])[0].argmax())
        row: dict[str, Any] = {"example": place, "label": example["label"], "answer": names[before]}
        row["right"] = row["label"] == row["answer"]
        if row["right"]:
            came = attack(example["text"], before, ask, find, wanted.budget)
            row |= came._asdict() | {"changes": [list(change) for change in came.changes]}
            row["answer_after"] = names[int(ask([came.text])[0].argmax())]
        found.append(row)
    return {"attacked": found}


def picked(chosen: Sequence[Example], limit: int) -> list[int]:
    """Places of at most `limit` of the examples, chosen as evaluation chooses them."""
    kept = {id(example) for example in examples.choose(list(chosen), limit)}
    return [place for place, example in enumerate(chosen) if id(example) in kept]


def _dictionary(settings: Robustness, inputs: Inputs) -> Dictionary:
    where = f"{SETTING}.synonyms"
    return dictionary.read(inputs[where].path, where) if settings.synonyms is not None else wordnet.read(SETTING)
