"""One model's measurements, made in a process of its own: likelihood of rows, answers to a task, agreement of engines."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from manta.artifact import Resolved
from manta.data.respell import respeller
from manta.data.sample import sample_documents
from manta.errors import InputError
from manta.evaluate import agreement, asking, comparing, copies, engines, labelling
from manta.evaluate.engines import Engine
from manta.evaluate.perplexity import perplexity
from manta.evaluate.robustness import trial
from manta.schema import EvaluateRecipe
from manta.storage import Folder
from manta.tasks import COMPARING, LABELLING, TASKS, examples
from manta.tasks.encoding import conversation, seq2seq

SPLIT = "validation"
GAP_ROWS = 8  # rows that both engines score: wrong packing moves perplexity by far more than their noise


class Questions(NamedTuple):
    """Task examples as one model is asked them. `limits` are the new tokens that each answer may have."""

    prompts: list[list[int]]
    limits: list[int]
    references: list[str]


def measure(
    recipe: EvaluateRecipe, role: str, source: Resolved, inputs: dict[str, Resolved], folder: Folder, mailbox: Any
) -> None:
    """Measure `source` and write the outcome to `file_of(role)` in the folder: see `_measure` for what it holds."""
    from manta.models.load import model_config, model_folder, weight_bytes

    def note(text: str) -> None:
        mailbox.put.remote({"note": f"{role}: {text}"})

    if role != "model":
        recipe = trial.without(recipe)
    task = recipe.evaluate.task
    labelling_task = task is not None and task.name in LABELLING
    with model_folder(source) as model:
        if task is not None and task.name in COMPARING:
            outcome = comparing.measure(recipe, model, inputs, note)
        elif task is not None and seq2seq.teaches(task, model_config(str(model))):
            outcome = asking.measure(recipe, model, inputs, note, source)
        else:
            outcome = (labelling.measure if labelling_task else _measure)(recipe, model, inputs, note, source)
        outcome["weight_bytes"] = weight_bytes(model)
        outcome["compressed"] = source.kind == "compress" or "quantization_config" in model_config(str(model))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    outcome["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
    folder.write_text(file_of(role), json.dumps(outcome))


def file_of(role: str) -> str:
    """Where a model's measurements wait for the other's: a run that broke off does not repeat them."""
    return f"work/{role}.json"


def _measure(
    recipe: EvaluateRecipe, model: Path, inputs: dict[str, Resolved], note: Any, source: Resolved
) -> dict[str, Any]:
    """{nll, tokens: per row; logs: per row and token; predictions, references: per example; engine_gap: float or None}."""
    from transformers import AutoTokenizer

    settings = recipe.evaluate
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    rows, tokens = _rows(recipe, model, inputs, note)
    chosen = _chosen(recipe, inputs)
    asked = _questions(recipe, model, tokenizer, chosen)
    again = trial.again(recipe, inputs, chosen)
    more = _questions(recipe, model, tokenizer, trial.listed(again))
    questions = [*zip(asked.prompts, asked.limits, strict=True), *zip(more.prompts, more.limits, strict=True)]
    ends = [len(prompt) + limit for prompt, limit in questions]
    longest = max([*map(len, rows), *ends])
    if recipe.resources.workers > 1:
        engine = copies.engine(copies.of(recipe, source), settings.engine, settings.dtype, longest)
    else:
        engine = engines.load(settings.engine, model, settings.dtype, longest)
        note(f"loaded into {settings.engine}")
    logs = engine.logs(rows) if rows else []
    nll = [-math.fsum(row) for row in logs]
    if nll:
        note(f"perplexity {perplexity(nll, tokens):.4g} over {sum(tokens):,} tokens")
    predictions = _answers(recipe, engine, tokenizer, asked)
    if predictions:
        note(f"{len(predictions)} answers")
    answers = _answers(recipe, engine, tokenizer, more)
    return trial.perturbed(recipe, chosen, again, predictions, answers, more.references) | {
        "nll": nll,
        "tokens": tokens,
        "logs": [[round(log, 6) for log in row] for row in logs],
        "predictions": predictions,
        "references": asked.references,
        **_read_by_both(recipe, model, engine, (rows or asked.prompts)[:GAP_ROWS], logs[:GAP_ROWS]),
    }


def _rows(
    recipe: EvaluateRecipe, model: Path, inputs: dict[str, Resolved], note: Any
) -> tuple[list[list[int]], list[int]]:
    """The rows in this model's ids, and how many tokens of the shards' own each predicts.

    A vocabulary that was trimmed may spell a row in more tokens; their likelihood is still counted by the shards' tokens,
    so that the perplexities of a model and of its base are of the same text.
    """
    if not recipe.evaluate.perplexity_rows or "data.shards" not in inputs:
        return [], []
    shards = Folder(inputs["data.shards"].path)
    spell = respeller(shards, Folder(model))
    rows = sample_documents(shards, SPLIT, recipe.evaluate.perplexity_rows, recipe.seed)
    tokens = [len(row) - 1 for row in rows]
    if spell is not None:
        rows = [spell(row) for row in rows]
        longer = sum(len(row) - 1 for row in rows) / max(1, sum(tokens))
        note(f"its trimmed vocabulary spells the rows in {longer:.4f} times as many tokens")
    return rows, tokens


def _chosen(recipe: EvaluateRecipe, inputs: dict[str, Resolved]) -> list[dict[str, Any]]:
    """The examples that the task is scored on; none where no task is asked for."""
    settings = recipe.evaluate.task
    if settings is None or not recipe.evaluate.task_samples or "data.examples" not in inputs:
        return []
    found = examples.read(inputs, SPLIT, recipe.data, settings)
    return examples.choose(found, recipe.evaluate.task_samples)


def _questions(recipe: EvaluateRecipe, model: Path, tokenizer: Any, chosen: Sequence[dict[str, Any]]) -> Questions:
    """Examples of the task, put through this model's own chat template."""
    settings = recipe.evaluate.task
    if settings is None or not chosen:
        return Questions([], [], [])
    task = TASKS[settings.name]
    texts = [
        conversation.render(task.question(example, tokenizer, settings), tokenizer, answering=True)
        for example in chosen
    ]
    prompts = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    positions = json.loads((model / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    return Questions(
        prompts, limits(prompts, positions, task.max_new_tokens(settings)), [task.reference(e) for e in chosen]
    )


def _answers(recipe: EvaluateRecipe, engine: Engine, tokenizer: Any, asked: Questions) -> list[Any]:
    """What the model answers to each question, as the task reads it."""
    if recipe.evaluate.task is None or not asked.prompts:
        return []
    answers = engine.generate(asked.prompts, asked.limits)
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    return [TASKS[recipe.evaluate.task.name].decode(text) for text in texts]


def limits(prompts: Sequence[Sequence[int]], positions: int, wanted: int) -> list[int]:
    """How many new tokens each prompt may get: `wanted`, or as many as the model has positions left.

    Raises InputError for a prompt that leaves none.
    """
    longest = max(map(len, prompts))
    if longest >= positions:
        raise InputError(
            f"evaluate.task: a question has {longest} tokens and the model takes {positions}, so no answer fits: "
            "lower evaluate.task.max_input_tokens, or leave such examples out"
        )
    return [min(wanted, positions - len(prompt)) for prompt in prompts]


def _read_by_both(
    recipe: EvaluateRecipe, model: Path, engine: Engine, rows: list[list[int]], logs: list[list[float]]
) -> dict[str, Any]:
    """How far the serving engine is from transformers in float32 for the same files, see `agreement.gaps`, and what both
    `read`. `logs` are what it said of `rows` already; where no rows are scored, it is asked about the task's questions."""
    if recipe.evaluate.engine == "transformers" or recipe.gate.engine_gap is None or not rows:
        return {"engine_gap": None}
    reference = engines.load("transformers", model, "float32", max(map(len, rows)))
    read = {"served": logs or engine.logs(rows), "reference": reference.logs(rows)}
    return {**agreement.gaps(read["served"], read["reference"]), "read": read}
