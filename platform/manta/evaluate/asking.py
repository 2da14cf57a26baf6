"""What an encoder-decoder answers to a task's examples, by Transformers: greedily or by beams, in padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import copies
from manta.evaluate.robustness import trial
from manta.schema import EvaluateRecipe
from manta.sections.tasks import TextToText
from manta.tasks import TASKS, examples, labels
from manta.tasks.encoding import seq2seq
from manta.tasks.scoring import generation

SPLIT = "validation"


def check(recipe: EvaluateRecipe, models: Mapping[str, Resolved]) -> None:
    """Raise InputError for what an encoder-decoder among `models` (by role) cannot be asked; packages are seen later."""
    from manta.models.load import model_config, model_url

    for role, model in models.items():
        if model.kind == "package":
            continue
        config = model_config(model_url(model))
        if recipe.evaluate.task is not None:
            seq2seq.refuse_unread(recipe.evaluate.task, config)
        if seq2seq.reads_apart(config):
            _check(recipe, role, model, config)


def _check(recipe: EvaluateRecipe, role: str, model: Resolved, config: Mapping[str, Any]) -> None:
    settings, kind = (
        recipe.evaluate,
        f"{role} = {model.ref!r} is of type {config['model_type']!r}, with an encoder and a decoder",
    )
    if settings.engine != "transformers":
        raise InputError(
            f"evaluate.engine = {settings.engine!r} does not serve such models: {kind}: set evaluate.engine=transformers"
        )
    if settings.perplexity_rows:
        raise InputError(
            f"evaluate.perplexity_rows = {settings.perplexity_rows}: {kind}, which predicts answers and not the rows' own text: set "
            "data.shards=null evaluate.perplexity_rows=0 and evaluate.task (what its answers' loss is, training's validation says)"
        )
    if settings.task is not None and not isinstance(settings.task, TextToText):
        raise InputError(
            f"evaluate.task.name = {settings.task.name!r}: {kind}, which is taught summarisation and translation: set one of these"
        )


def measure(
    recipe: EvaluateRecipe, model: Path, inputs: dict[str, Resolved], note: Any, source: Resolved
) -> dict[str, Any]:
    """{predictions, references: per example}, with what is not measured as in `measure.measure`."""
    from manta.models.load import model_config

    settings = recipe.evaluate.task
    assert isinstance(settings, TextToText)
    task, config = TASKS[settings.name], model_config(str(model))
    tokenizer = labels.tokenizer(model)
    seq2seq.check(tokenizer, config)
    found = examples.read(inputs, SPLIT, recipe.data, settings)
    chosen = examples.choose(found, recipe.evaluate.task_samples)
    arguments = (labels.filler(tokenizer), task.max_new_tokens(settings), settings.beams)

    def answered(some: Sequence[dict[str, Any]]) -> list[Any]:
        asked = [seq2seq.question(example, tokenizer, settings, config, task)[0] for example in some]
        seq2seq.refuse_long(max(map(len, asked), default=0), 0, config, settings)
        together = generation.groups(asked)
        parts = [[asked[place] for place in places] for places in together]
        if recipe.resources.workers > 1:  # the same rows are computed together, whoever does it
            said = copies.spread(copies.of(recipe, source), _Copy, (recipe, source, *arguments), parts)
        else:
            said = _Answers(recipe, model, *arguments)(parts)
        answers = {
            place: tokenizer.decode(answer, skip_special_tokens=True)
            for places, part in zip(together, said, strict=True)
            for place, answer in zip(places, part, strict=True)
        }
        return [task.decode(answers[place]) for place in range(len(asked))]

    predictions = answered(chosen)
    note(f"{len(predictions)} answers")
    again = trial.again(recipe, inputs, chosen)
    changed = trial.listed(again)
    wanted = [task.reference(example) for example in changed]
    return trial.perturbed(recipe, chosen, again, predictions, answered(changed) if changed else [], wanted) | {
        "nll": [],
        "tokens": [],
        "predictions": predictions,
        "references": [task.reference(example) for example in chosen],
        "engine_gap": None,
    }


class _Answers:
    """A loaded model: rows of token ids that are computed together -> for each of them its answer's."""

    def __init__(self, recipe: EvaluateRecipe, model: Path, pad_id: int, limit: int, beams: int):
        import torch
        from transformers import AutoModelForSeq2SeqLM

        dtype = getattr(torch, recipe.evaluate.dtype)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=dtype, local_files_only=True).eval()
        self.given = (pad_id, limit, beams)

    def __call__(self, parts: Sequence[list[list[int]]]) -> list[list[list[int]]]:
        return [generation.answers(self.model, part, *self.given) for part in parts]


class _Copy(_Answers):
    """One of several, which finds the model's directory itself."""

    def __init__(self, recipe: EvaluateRecipe, source: Resolved, pad_id: int, limit: int, beams: int):
        from manta.models.load import model_folder

        self.held = model_folder(source)
        super().__init__(recipe, self.held.__enter__(), pad_id, limit, beams)
