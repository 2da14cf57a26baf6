"""What is doubtful in a file of examples that are each right: repeats, contradictions, leaks between files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from manta.errors import InputError
from manta.tasks.encoding.conversation import Example
from manta.tasks.examples.splitting import question
from manta.tasks.fields import Field

SHOWN = 3  # cases named in one sentence
LABELS = ("label", "labels", "tags")  # kinds of which a question has one right value


class Numbered(NamedTuple):
    """The examples of a file, and the number (of `word`: "line", "row", "item") of each."""

    role: str
    url: str
    word: str
    examples: list[dict[str, Any]]
    numbers: list[int]


def notes(file: Numbered, fields: Sequence[Field]) -> list[str]:
    """A sentence each about examples that repeat others, and about labels that contradict each other."""
    first: dict[str, int] = {}
    labelled: dict[str, int] = {}
    repeats: list[str] = []
    contradictions: list[str] = []
    learnt = [field.name for field in fields if field.kind in LABELS]
    for position, example in enumerate(file.examples):
        key = _key(example)
        if key in first:
            repeats.append(f"{file.word} {file.numbers[position]} is {file.word} {file.numbers[first[key]]} again")
            continue
        first[key] = position
        if learnt:
            asked = _key({name: value for name, value in example.items() if name not in learnt})
            other = labelled.setdefault(asked, position)
            if other != position:
                contradictions.append(
                    f"{file.word} {file.numbers[position]} has {_values(example, learnt)}, "
                    f"{file.word} {file.numbers[other]} {_values(file.examples[other], learnt)}"
                )
    said = []
    if repeats:
        said.append(
            f"{file.url} repeats examples {len(repeats)} times ({_some(repeats)}): delete what is not meant to weigh more"
        )
    if contradictions:
        said.append(
            f"{file.url} labels the same text differently {len(contradictions)} times ({_some(contradictions)}): keep the right one"
        )
    return said


def refuse_leak(train: Numbered, validation: Numbered) -> None:
    """Raise InputError where a question to validate with is trained on: its score would tell what was remembered."""
    asked: dict[str, int] = {}
    for number, example in zip(train.numbers, train.examples, strict=True):
        asked.setdefault(_key(question(example)), number)
    leaks = []
    for number, example in zip(validation.numbers, validation.examples, strict=True):
        if (other := asked.get(_key(question(example)))) is not None:
            leaks.append(f"{validation.word} {number} asks what {train.word} {other} does")
    if leaks:
        raise InputError(
            f"{validation.role}: {len(leaks)} of the {len(validation.examples)} examples of {validation.url} are also trained on, "
            f"in {train.url} ({_some(leaks)}): delete them from one of the two"
        )


def _some(cases: list[str]) -> str:
    more = f"; and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return "; ".join(cases[:SHOWN]) + more


def _values(example: Example, names: list[str]) -> str:
    return " ".join(str(example[name]) if name == "tags" else repr(example[name]) for name in names if name in example)


def _key(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False)
