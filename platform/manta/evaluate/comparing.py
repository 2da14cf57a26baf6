"""What a model makes of texts side by side: the likelihoods of two answers, the nearness of what belongs together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.schema import EvaluateRecipe
from manta.sections.tasks import PreferenceTask
from manta.tasks import COMPARING, embedding, examples, labels, preference
from manta.tasks.encoding import rows
from manta.tasks.labels import Row

if TYPE_CHECKING:
    import numpy as np

SPLIT = "validation"
AT_ONCE = 16  # examples of like length, computed together


def check(recipe: EvaluateRecipe) -> None:
    """Raise InputError for what such a task cannot be measured with, and for a reference that nothing reads."""
    task, settings = recipe.evaluate.task, recipe.evaluate
    if recipe.model.reference is not None and not isinstance(task, PreferenceTask):
        raise InputError(
            f"model.reference = {recipe.model.reference!r} is what margins of preferences are measured against: set "
            "evaluate.task.name=preference, or model.reference=null"
        )
    if task is None or task.name not in COMPARING:
        return
    if settings.engine != "transformers":
        raise InputError(
            f"evaluate.engine = {settings.engine!r} writes text, and task.name = {task.name!r} compares texts that are there: set "
            "evaluate.engine=transformers"
        )
    if recipe.resources.workers > 1:
        raise InputError(
            f"resources.workers = {recipe.resources.workers}: task.name = {task.name!r} is measured in one process: set "
            "resources.workers=1, and resources.cpus as high as there are"
        )
    if recipe.data.shards is not None:
        raise InputError(
            f"data.shards = {recipe.data.shards!r}: perplexity is not measured together with task.name = {task.name!r}: set "
            "data.shards=null evaluate.perplexity_rows=0, and give it a recipe of its own"
        )


def measure(recipe: EvaluateRecipe, model: Path, inputs: dict[str, Resolved], note: Any) -> dict[str, Any]:
    """As `measure.measure`, without perplexity: predictions are ranks, or of preferences [log p(chosen), log p(rejected)].

    References are the answers that were chosen, or the texts that belong to the examples' own.
    """
    settings = recipe.evaluate.task
    assert settings is not None
    found = examples.read(inputs, SPLIT, recipe.data, settings)
    chosen = examples.choose(found, recipe.evaluate.task_samples)
    tokenizer = labels.tokenizer(model)
    task = COMPARING[settings.name]
    if task is embedding:
        embedding.refuse_mixed(chosen)
    encoded = [task.encode(example, tokenizer, settings) for example in chosen]
    pad_id = labels.filler(tokenizer)
    of_model = _likelihoods if isinstance(settings, PreferenceTask) else _vectors
    values, columns = of_model(model, recipe.evaluate.dtype, encoded, pad_id)
    predictions = values.tolist() if task is preference else task.predictions(values, columns, settings)
    note(f"{len(predictions)} examples compared")
    return {
        "nll": [],
        "tokens": [],
        "predictions": predictions,
        "references": [example[list(task.PARTS)[0 if task is preference else 1]] for example in chosen],
        "engine_gap": None,
    }


def settled(recipe: EvaluateRecipe, measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The measurements, with margins in the place of likelihoods: against those of "reference" where that was measured.

    Without one the reference finds all answers equally likely.
    """
    import numpy as np

    settings = recipe.evaluate.task
    if not isinstance(settings, PreferenceTask):
        return measured
    against = measured.get("reference")
    made = {}
    for role, outcome in measured.items():
        own = np.array(outcome["predictions"], dtype=np.float64)  # (examples, 2)
        other = np.zeros_like(own) if against is None else np.array(against["predictions"], dtype=np.float64)
        margins = preference.predictions(np.concatenate([own, other], axis=1), {}, settings)
        made[role] = {**outcome, "predictions": margins}
    return made


def _likelihoods(model: Path, dtype: str, encoded: list[Row], pad_id: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Log-probabilities of both answers, float32 (rows, 2), and the columns they are of."""
    import torch
    from transformers import AutoModelForCausalLM

    from manta.models.classes import know
    from manta.models.load import model_config
    from manta.objectives.preference import answers

    know(model_config(str(model)))
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), local_files_only=True).eval()
    padded = {"input_ids": pad_id, "rejected_input_ids": pad_id, **preference.PADDED}
    return _by_length(encoded, padded, lambda batch: answers(loaded, batch))


def _vectors(model: Path, dtype: str, encoded: list[Row], pad_id: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Unit vectors of each part, float32 (rows, parts, width), and the columns they are of."""
    import torch
    from transformers import AutoModel

    from manta.objectives.contrast import vectors

    loaded = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype), local_files_only=True).eval()
    parts = [prefix for prefix in embedding.PARTS.values() if f"{prefix}input_ids" in encoded[0].columns]
    names = ("input_ids", "attention_mask", "token_type_ids")

    def each(batch: dict[str, Any]) -> Any:
        given = [{name: batch[prefix + name] for name in names if prefix + name in batch} for prefix in parts]
        return torch.stack([vectors(loaded, columns) for columns in given], dim=1)

    padded = {**{f"{prefix}input_ids": pad_id for prefix in parts}, **embedding.PADDED}
    return _by_length(encoded, padded, each)


def _by_length(encoded: list[Row], padded: dict[str, int], compute: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What `compute` makes of batches of rows of like length, in the rows' own order; and all rows as columns."""
    import numpy as np
    import torch

    by_length = sorted(range(len(encoded)), key=lambda place: len(encoded[place].columns["input_ids"]))
    found = []
    for first in range(0, len(by_length), AT_ONCE):
        part = [encoded[place] for place in by_length[first : first + AT_ONCE]]
        columns = rows.stacked(part, max(len(row.columns["input_ids"]) for row in part), padded)
        with torch.inference_mode():
            found.append(compute({name: torch.from_numpy(values) for name, values in columns.items()}).float().numpy())
    values = np.concatenate(found)
    longest = max(len(row.columns["input_ids"]) for row in encoded)
    return values[np.argsort(by_length)], rows.stacked(encoded, longest, padded)
