"""What an example of a task is made of: its fields, what each may hold, and the complaint about one that does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "text", "label", "labels", "tokens", "tags", "span", "answers", "some_answers", "messages", "turns", "prompt"
]

ROLES = ("system", "user", "assistant")
SHOWN = 60  # characters of a wrong value in a complaint


@dataclass(frozen=True)
class Field:
    """One field of a task's examples. An optional one may be left out or be null."""

    name: str
    kind: Kind
    optional: bool = False


EXCHANGE = (Field("input", "text"), Field("target", "text"))  # a conversation of one question and one answer
ASKED = (Field("input", "text"), Field("target", "text", optional=True))  # that is yet to be answered, perhaps


def complaint(fields: Sequence[Field], record: Mapping[str, Any]) -> str | None:
    """What is wrong with a record of these fields, as text that follows "line 7", or None.

    A field of kind "messages" may be given as EXCHANGE instead, one of kind "turns" as ASKED, one of kind "prompt" as the input alone. Where "label"
    and "labels" are both optional, one of them must be there. Tokens and tags must be equally many; a span must lie
    within "text"; an answer must stand in "context" where its start says; what is to be told apart must differ.
    """
    wanted = shape(fields, record)
    for field in wanted:
        value = record.get(field.name)
        if value is None:
            if not field.optional:
                return missing(field.name, record)
        elif told := CHECKS[field.kind](field.name, value):
            return told
    labels = [field.name for field in wanted if field.kind in ("label", "labels")]
    if labels and all(record.get(name) is None for name in labels):
        return missing(labels[0], record)
    return _together({field.name: record.get(field.name) for field in wanted})


def shape(fields: Sequence[Field], record: Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields that a record should have: those of the task, or EXCHANGE (of a prompt the input) for messages it lacks."""
    told = any(record.get(field.name) is not None for field in EXCHANGE)
    found: list[Field] = []
    for field in fields:
        if field.kind == "messages" and record.get(field.name) is None and told:
            found.extend(EXCHANGE)
        elif field.kind == "turns" and record.get(field.name) is None and told:
            found.extend(ASKED)
        elif field.kind == "prompt" and record.get(field.name) is None and record.get("input") is not None:
            found.append(EXCHANGE[0])
        else:
            found.append(field)
    return tuple(found)


def missing(name: str, record: Mapping[str, Any]) -> str:
    """The complaint about a field that is not there, with what is."""
    return f"has no {name!r} (it has {', '.join(map(repr, record)) or 'nothing'})"


def shown(value: object) -> str:
    """A value as it would be written in Python, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


# --- one kind each: (name of the field, its value) -> complaint or None ----------------------------------------------


def text(name: str, value: object) -> str | None:
    """Text that is not blank."""
    if not isinstance(value, str):
        return f"has no text in {name!r} but {shown(value)}"
    return None if value.strip() else f"has an empty {name!r}"


def label(name: str, value: object) -> str | None:
    """The name of a class."""
    if not isinstance(value, str):
        return f"has a {name!r} that is {_noun(value)} and not text: {shown(value)}"
    return None if value.strip() else f"has an empty {name!r}"


def labels(name: str, value: object) -> str | None:
    """Names of classes, each once; none may hold."""
    if not isinstance(value, list):
        return f"has {name!r} that are no list but {shown(value)}"
    for item in value:
        if not isinstance(item, str) or not item.strip():
            return f"has {name!r} of which one is no text: {shown(item)}"
    return None if len(set(value)) == len(value) else f"has {name!r} that name one twice: {shown(value)}"


def tokens(name: str, value: object) -> str | None:
    """Words, one at least, none blank."""
    if not isinstance(value, list) or not value:
        return f"has no list of words in {name!r} but {shown(value)}"
    for position, item in enumerate(value, 1):
        if not isinstance(item, str) or not item.strip():
            return f"has a word {position} in {name!r} that is " + (
                "empty" if item == "" else f"no text: {shown(item)}"
            )
    return None


def tags(name: str, value: object) -> str | None:
    """The tag's name of each word."""
    if not isinstance(value, list) or not value:
        return f"has no list of tags in {name!r} but {shown(value)}"
    for position, item in enumerate(value, 1):
        if not isinstance(item, str) or not item.strip():
            return f"has a tag {position} in {name!r} that is no name such as 'O' or 'B-PER': {shown(item)}"
    return None


def span(name: str, value: object) -> str | None:
    """[start, end] in characters; end is the first character behind it."""
    pair = value if isinstance(value, list) else []
    if len(pair) != 2 or not all(isinstance(place, int) and not isinstance(place, bool) for place in pair):
        return f"has a {name!r} that is not [start, end] in characters: {shown(value)}"
    return None if 0 <= pair[0] < pair[1] else f"has a {name!r} that does not start before it ends: {shown(value)}"


def answers(name: str, value: object) -> str | None:
    """[{"text", "start"}], start in characters; empty where the context holds no answer."""
    if not isinstance(value, list):
        return f"has {name!r} that are not a list of {{text, start}} but {shown(value)}"
    for position, item in enumerate(value, 1):
        if not isinstance(item, dict) or not isinstance(item.get("text"), str) or not item["text"].strip():
            return f"has an answer {position} without text in 'text'"
        start = item.get("start")
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            return f"has an answer {position} whose 'start' is no place in the context: {shown(start)}"
    return None


def some_answers(name: str, value: object) -> str | None:
    """As answers, one at least."""
    if value == []:
        return f"has no {name!r}: set task.null_threshold=0 if a context may hold none"
    return answers(name, value)


def messages(name: str, value: object) -> str | None:
    """[{"role", "content"}]: perhaps the system, then user and assistant in turns, the assistant last."""
    return _conversation(name, value, "assistant", "does not end with the assistant's answer")


def turns(name: str, value: object) -> str | None:
    """[{"role", "content"}]: perhaps the system, then user and assistant in turns, whoever is last."""
    return _conversation(name, value, None, "")


def prompt(name: str, value: object) -> str | None:
    """[{"role", "content"}]: perhaps the system, then user and assistant in turns, the user last."""
    return _conversation(name, value, "user", "does not end with the user's question")


def _conversation(name: str, value: object, last: str | None, otherwise: str) -> str | None:
    if not isinstance(value, list) or not value:
        return f"has {name!r} that are not a list of {{role, content}}"
    for position, message in enumerate(value, 1):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str) or not content.strip():
            return f"has a message {position} without text in 'content'"
        if message.get("role") not in ROLES:
            return f"has a message {position} of role {message.get('role')!r}: choose one of {', '.join(ROLES)}"
    roles = [message["role"] for message in value]
    said = roles[1:] if roles[0] == "system" else roles
    if not said or said != ["user" if position % 2 == 0 else "assistant" for position in range(len(said))]:
        return f"has roles that do not take turns from the user's question on ({', '.join(roles)})"
    return None if last in (None, said[-1]) else otherwise


CHECKS: dict[Kind, Callable[[str, object], str | None]] = {
    "text": text,
    "label": label,
    "labels": labels,
    "tokens": tokens,
    "tags": tags,
    "span": span,
    "answers": answers,
    "some_answers": some_answers,
    "messages": messages,
    "turns": turns,
    "prompt": prompt,
}


def _together(record: Mapping[str, Any]) -> str | None:
    """What is wrong between fields that are each right by themselves."""
    words, named = record.get("tokens"), record.get("tags")
    if words is not None and named is not None and len(words) != len(named):
        return f"has {len(words)} tokens and {len(named)} tags: each token needs one"
    for name in ("head", "tail"):
        if record.get(name) is not None and record[name][1] > len(record["text"]):
            return f"has a {name!r} of {record[name]} that ends behind the text's {len(record['text'])} characters"
    for position, answer in enumerate(record.get("answers") or [], 1):
        start, wanted = answer["start"], answer["text"]
        found = record["context"][start : start + len(wanted)]
        if found != wanted:
            return f"has an answer {position} {shown(wanted)} that does not start at {start} of the context: {shown(found)} does"
    for one, other in (("chosen", "rejected"), ("positive", "negative")):
        if record.get(one) is not None and record[one] == record.get(other):
            return f"has the same text in {one!r} and {other!r}, so nothing tells which is better: {shown(record[one])}"
    return None


def _noun(value: object) -> str:
    nouns = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return nouns.get(type(value), type(value).__name__)
