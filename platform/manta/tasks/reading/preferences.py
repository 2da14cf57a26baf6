"""Pairs of answers as they are written elsewhere, in our words: messages or input, chosen, rejected."""

from __future__ import annotations

from typing import Any

from manta.tasks import fields
from manta.tasks.reading import conversations
from manta.tasks.reading.found import Complaint

ANSWERS = ("chosen", "rejected")
# What a record may hold its question in.
KEYS = {"messages", "conversations", "prompt", "instruction", "input", "system", *ANSWERS}


def plain(record: dict[str, Any]) -> dict[str, Any] | Complaint:
    """The record with its question as "messages" or "input" and both answers as text, whichever shape it came in.

    Known are: question and answers each by itself, as text or as messages (`prompt` may stand for `input` or
    `messages`); both answers as whole conversations that begin alike and end with an answer each, as many data sets of
    Hugging Face have them; `instruction` (perhaps `input`) or `conversations` of `from` and `value`, as LLaMA-Factory
    reads them, with answers as text or as one turn. A `system` text is put before the question.
    """
    both = [_turns(name, record.get(name)) for name in ANSWERS]
    if wrong := next((found for found in both if isinstance(found, Complaint)), None):
        return wrong
    chosen, rejected = both
    if isinstance(chosen, list) != isinstance(rejected, list) and None not in both:
        return Complaint("has one of 'chosen' and 'rejected' as text and the other as messages")
    asked = _question(record)
    if isinstance(asked, Complaint):
        return asked
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        told = {name: found for name, found in zip(ANSWERS, both, strict=True) if found is not None}
        return {**_rest(record), **asked, **told}
    for name, turns in zip(ANSWERS, (chosen, rejected), strict=True):
        if turns[-1]["role"] != "assistant":
            return Complaint(f"has messages in {name!r} that do not end with the assistant's answer")
    before = chosen[:-1]
    if before != rejected[:-1]:
        return Complaint("has 'chosen' and 'rejected' that differ before their last answer: they must ask the same")
    if before:  # whole conversations, which say what is asked better than a prompt beside them
        asked = {"messages": before}
    return {**_rest(record), **asked, "chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}


def _rest(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in KEYS}


def _turns(name: str, value: Any) -> Any:
    """An answer as it stands, or as messages [{role, content}] where it is one or several."""
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list):
        return turns
    found = conversations.plain({"messages": turns})
    if isinstance(found, Complaint):
        return found
    told = found["messages"]
    if not told or not all(isinstance(turn, dict) and isinstance(turn["content"], str) for turn in told):
        return Complaint(f"has {name!r} that is neither text nor messages of role and content: {fields.shown(value)}")
    return told


def _question(record: dict[str, Any]) -> dict[str, Any] | Complaint:
    """{"messages"} or {"input"}; nothing where the record has no question of its own."""
    known = ("messages", "conversations", "input")
    asked = {name: record[name] for name in known if record.get(name) is not None}
    prompt = record.get("prompt")
    if prompt is not None and not asked:
        asked = {"messages" if isinstance(prompt, list) else "input": prompt}
    found: dict[str, Any] | Complaint = asked
    if record.get("instruction") is not None:
        found = conversations.plain({"instruction": record["instruction"], "input": record.get("input"), "output": "-"})
        found = found if isinstance(found, Complaint) else {"input": found["input"]}
    elif "messages" in asked or "conversations" in asked:
        found = conversations.plain(asked)
    if isinstance(found, Complaint) or not record.get("system") or not found:
        return found
    first = [{"role": "system", "content": record["system"]}]
    return {"messages": first + (found.get("messages") or [{"role": "user", "content": found["input"]}])}
