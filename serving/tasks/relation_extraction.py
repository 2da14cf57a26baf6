"""relation-extraction: a text with two entities in it, and what the one is to the other."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from manta.sections.tasks import RelationsTask
from manta.tasks import fields, relations
from manta.tasks.labels import Labels, Unusable
from serving.tasks import asked, passes
from serving.tasks.asked import Strict, Wrong
from serving.tasks.model import ENDLESS, Model, Row
from serving.tasks.text_classification import ranked

COMPUTE = passes.logits
GIVEN = tuple(field for field in relations.FIELDS if field.name != "label")


class Parameters(Strict):
    top_k: Annotated[int, Field(gt=0)] | None = None  # all relations


class _Item(Strict):
    text: str
    head: list[int]
    tail: list[int]


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    del model
    return {"inputs": {"text": "Ada works in London.", "head": [0, 3], "tail": [13, 19]}}


def item(where: str, given: Any) -> dict[str, Any]:
    """{"text", "head", "tail"}, both entities as [start, end] in characters; end is the first one behind it."""
    if not isinstance(given, dict):
        raise Wrong(where, f'`{where}` is not an object: give {{"text", "head": [start, end], "tail": [start, end]}}.')
    found = asked.section(where, _Item, given).model_dump()
    asked.text(f"{where}.text", found["text"])
    if told := fields.complaint(GIVEN, found):
        raise Wrong(where, f"`{where}` {told}.")
    return found


def rows(found: dict[str, Any], where: str, parameters: Parameters, model: Model) -> list[Row]:
    """The one row of an item, made as in training: a long text is cut around both entities."""
    del parameters
    limit = min(model.limit or ENDLESS, (model.taught or {}).get("max_tokens", ENDLESS))
    settings = RelationsTask(name="relations", max_tokens=limit)
    try:
        made = relations.encode(found, model.tokenizer, settings, Labels((), ()))
    except Unusable:
        raise Wrong(where, f"`{where}`: the entities are further apart than the {limit} tokens that the model reads.") from None  # fmt: skip
    model.require_fits(where, len(made.columns["input_ids"]))
    return [Row({name: values for name, values in made.columns.items() if name != "labels"})]


def answer(found: dict[str, Any], made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """[{"label", "score"}], likeliest first."""
    del found, made
    return ranked(outputs[0], model, "softmax")[: parameters.top_k]
