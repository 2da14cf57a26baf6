"""summarization: a text, and its gist."""

from __future__ import annotations

from typing import Any

from manta.sections.tasks import SummarisationTask
from manta.tasks import summarisation
from serving.tasks import passes, written
from serving.tasks.model import Model, Row
from serving.tasks.written import Parameters, item

__all__ = ["COMPUTE", "Parameters", "answer", "item", "probe", "rows", "shaped"]

COMPUTE = passes.answers


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    del model
    return {"inputs": "a text", "parameters": {"max_new_tokens": 1}}


def rows(found: str, where: str, parameters: Parameters, model: Model) -> list[Row]:
    """The one row of a text."""
    return written.rows(found, where, parameters, model, task(model), summarisation)


def answer(found: str, made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """{"summary_text"}."""
    del found, made, parameters
    return {"summary_text": written.text(outputs, model, summarisation)}


def shaped(answers: list[Any], several: bool) -> Any:
    """A list, also of a single input's, as Hugging Face's inference API has it."""
    del several
    return answers


def task(model: Model) -> SummarisationTask:
    """What the model was tuned with; of a directory the words before a text that its config.json names."""
    if model.taught:
        return SummarisationTask(**model.taught)
    told = (model.config.get("task_specific_params") or {}).get("summarization") or {}
    return SummarisationTask(name="summarisation", prefix=told.get("prefix"))
