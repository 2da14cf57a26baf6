"""Probes as token ids, as the trainer and Transformers read them, and where two readings part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate.parity import plain, probes, trainer
from manta.evaluate.parity.probes import Probe
from manta.evaluate.parity.subject import Subject
from manta.schema import EvaluateRecipe
from manta.storage import Folder
from manta.tasks import LABELLING

AROUND = 4  # tokens shown at a difference, on both sides of it
LIMIT = 256  # tokens of a text for a head, where no task says it


@dataclass
class Item:
    """A probe as it was read. `trained` and `asked` are columns: what the trainer's and Transformers' models are given.

    `prompt` holds the ids that must be equal everywhere: of a conversation what stands before the last answer, else all
    that a server would be sent. `differences` says of each reader that parts from the trainer where it does.
    """

    probe: Probe
    kind: str  # conversation, text, row or example
    trained: dict[str, Any]
    asked: dict[str, Any]
    prompt: list[int]
    differences: dict[str, dict[str, Any]] = field(default_factory=dict)


def read(
    recipe: EvaluateRecipe, inputs: dict[str, Resolved], subject: Subject, tokenizer: Any
) -> tuple[list[Item], list[str]]:
    """The items to compare, and sentences about probes that were left out. Raises InputError where none is left."""
    left_out: list[str] = []
    if subject.labels:
        return _labelled(recipe, inputs, subject, tokenizer), left_out
    items = []
    if subject.objective == "clm":
        if tokenizer.chat_template:
            items += _conversations(recipe, inputs, subject, tokenizer, left_out)
            trainer.refuse_short(items)
        else:
            left_out.append("the model has no chat template: no conversation was compared")
        items += _rows(recipe, inputs, subject)
    return [*items, *_texts(subject, tokenizer)], left_out


def _conversations(
    recipe: EvaluateRecipe, inputs: dict[str, Resolved], subject: Subject, tokenizer: Any, left_out: list[str]
) -> list[Item]:
    import jinja2

    items = []
    for probe in probes.conversations(recipe, inputs):
        try:
            ids, begins = trainer.conversation_ids(probe, tokenizer, recipe.evaluate.task)
        except (InputError, jinja2.TemplateError) as error:
            # A template may take no system message, or no two turns of one kind: then it is not trained with such either.
            left_out.append(f"{probe.name}: training refuses it: {error}")
            continue
        said = probe.messages[:-1]
        if probe.example is not None and recipe.evaluate.task is not None:
            said = tuple(_question(probe, tokenizer, recipe.evaluate.task))
        probe = probe._replace(messages=(*said, probe.messages[-1]))
        columns = {"input_ids": subject.cut(ids)}
        item = Item(probe, "conversation", columns, _masked(columns), ids[:begins])
        note(item, "transformers", plain.conversation_ids(said, tokenizer), tokenizer)
        items.append(item)
    return items


def _question(probe: Probe, tokenizer: Any, settings: Any) -> list[dict[str, str]]:
    """What an example asks, cut as its task cuts it."""
    from manta.tasks import TASKS

    return list(TASKS[settings.name].question(probe.example, tokenizer, settings))


def _texts(subject: Subject, tokenizer: Any) -> list[Item]:
    items = []
    for probe in probes.texts():
        ids = plain.text_ids(probe.text, tokenizer)
        columns = {"input_ids": subject.cut(ids)}
        # Encoders are padded with a mask, decoders without one: they do not look behind.
        trained = columns if subject.objective == "clm" else _masked(columns)
        item = Item(probe, "text", trained, _masked(columns), ids)
        inner = list(tokenizer(probe.text, add_special_tokens=False)["input_ids"])
        note(item, "transformers", inner, tokenizer, trainer.text_ids(probe.text, subject, tokenizer))
        items.append(item)
    return items


def _rows(recipe: EvaluateRecipe, inputs: dict[str, Resolved], subject: Subject) -> list[Item]:
    items = []
    for probe in probes.rows(recipe, inputs, Folder(subject.folder)):
        columns = {"input_ids": subject.cut(list(probe.ids))}
        items.append(Item(probe, "row", columns, _masked(columns), list(probe.ids)))
    return items


def _labelled(recipe: EvaluateRecipe, inputs: dict[str, Resolved], subject: Subject, tokenizer: Any) -> list[Item]:
    settings = recipe.evaluate.task
    limit = min(getattr(settings, "max_tokens", LIMIT), subject.positions or LIMIT)
    items = []
    for probe in probes.labelled(recipe, inputs):
        trained = trainer.columns(probe, subject, tokenizer, settings if _judges(settings) else None)
        trained = {name: list(values)[:limit] for name, values in trained.items()}
        asked = plain.columns(probe, subject, _fresh(subject), limit)
        item = Item(probe, "example" if probe.example else "text", trained, asked, trained["input_ids"])
        note(item, "transformers", asked["input_ids"], tokenizer)
        items.append(item)
    return items


def _judges(settings: Any) -> bool:
    return settings is not None and settings.name in LABELLING


def _fresh(subject: Subject) -> Any:
    """The tokenizer as any user of the directory loads it: what it gives is for its own files to say."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(subject.folder, local_files_only=True)


def _masked(columns: dict[str, Any]) -> dict[str, Any]:
    return {**columns, "attention_mask": [1] * len(columns["input_ids"])}


def note(item: Item, reader: str, found: Sequence[int] | str, tokenizer: Any, wanted: Any = None) -> None:
    """Write down where `found`, a reader's ids, part from `wanted`, by default the item's prompt; words are a refusal."""
    if isinstance(found, str):
        item.differences[reader] = {"refused": found}
    elif (place := first_difference(item.prompt if wanted is None else wanted, found)) is not None:
        item.differences[reader] = show(item.prompt if wanted is None else wanted, found, place, tokenizer)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place at which two lists of ids differ; the end of the shorter one; None where they are equal."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))


def show(one: Sequence[int], other: Sequence[int], place: int, tokenizer: Any) -> dict[str, Any]:
    """A difference as people read it: {place, before, trainer, other}, the last two as ids and as text."""

    def some(ids: Sequence[int]) -> dict[str, Any]:
        part = list(ids[place : place + AROUND])
        return {"ids": part, "text": tokenizer.decode(part)}

    before = tokenizer.decode(list(one[max(0, place - AROUND) : place]))
    return {"place": place, "before": before, "trainer": some(one), "other": some(other)}
