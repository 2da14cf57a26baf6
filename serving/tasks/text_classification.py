"""text-classification: a text, or a pair of texts, and the probability of each label."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from manta.errors import InputError
from manta.sections.tasks import ClassificationTask
from manta.tasks import classification
from manta.tasks.labels import Labels
from serving.tasks import asked, passes
from serving.tasks.asked import Strict, Truncation, Wrong
from serving.tasks.model import ENDLESS, Model, Row

COMPUTE = passes.logits

Item = dict[str, str]  # text, perhaps text_pair


class Parameters(Strict):
    top_k: Annotated[int, Field(gt=0)] | None = None  # all labels
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None  # what the model was trained with
    truncation: Truncation | None = None  # cut what is too long, instead of refusing it


class _Pair(Strict):
    text: str
    text_pair: str | None = None


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    del model
    return {"inputs": "a text"}


def item(where: str, given: Any) -> Item:
    """A text, or {"text", "text_pair"}."""
    if not isinstance(given, dict):
        return {"text": asked.text(where, given)}
    pair = asked.section(where, _Pair, given).model_dump(exclude_none=True)
    return {name: asked.text(f"{where}.{name}", value) for name, value in pair.items()}


def rows(found: Item, where: str, parameters: Parameters, model: Model) -> list[Row]:
    """The one row of an item, made as in training. Raises Wrong for one that is too long."""
    limit = model.limit or ENDLESS
    settings = ClassificationTask(name="classification", max_tokens=limit)
    try:
        made = classification.encode(found, model.tokenizer, settings, Labels((), ()))
    except InputError:
        raise Wrong(where, f"`{where}` is a pair of texts, which this model cannot tell apart: join them.") from None
    length = len(made.columns["input_ids"])
    if made.truncated and not asked.cuts(parameters.truncation):
        length = len(model.tokenizer(found["text"], found.get("text_pair"))["input_ids"])
        model.require_fits(where, length, "shorten it, or set `parameters.truncation` to true")
    model.require_fits(where, length)
    return [Row({name: values for name, values in made.columns.items() if name != "labels"})]


def answer(found: Item, made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """[{"label", "score"}], likeliest first."""
    del found, made
    return ranked(outputs[0], model, parameters.function_to_apply or usual(model))[: parameters.top_k]


def shaped(answers: list[Any], several: bool) -> Any:
    """A list for each input, also of a single one, as Hugging Face's inference API has it."""
    del several
    return answers


def usual(model: Model) -> str:
    """What turns the outputs of this model into scores."""
    problem = model.config.get("problem_type")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or len(model.labels) == 1 else "softmax"


def ranked(logits: Any, model: Model, function: str) -> list[dict[str, Any]]:
    """Each label with its score, the highest first; `logits` is float32 (labels,)."""
    import numpy as np

    values = logits.astype(np.float64)
    if function == "sigmoid":
        values = 1 / (1 + np.exp(-values))
    elif function == "softmax":
        values = np.exp(values - values.max())
        values /= values.sum()
    order = sorted(range(len(values)), key=lambda place: -values[place])
    return [{"label": model.labels[place], "score": float(values[place])} for place in order]
