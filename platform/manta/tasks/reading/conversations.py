"""Conversations as they are written elsewhere (ShareGPT, Alpaca), in our words: messages, or input and target."""

from __future__ import annotations

from typing import Any

from manta.tasks import fields
from manta.tasks.reading.found import Complaint

# Who speaks in ShareGPT's files.
SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bard": "assistant",
    "bing": "assistant",
}
KEYS = {"messages", "conversations", "instruction", "input", "output", "target"}  # what a record may hold its words in


def plain(record: dict[str, Any]) -> dict[str, Any] | Complaint:
    """The record with "messages" [{role, content}] or "input" and "target", whichever shape it came in."""
    turns = record.get("messages") if record.get("messages") is not None else record.get("conversations")
    if turns is not None:
        return _messages(turns)
    if record.get("instruction") is not None and "output" in record:
        return _alpaca(record)
    return record


def _messages(turns: Any) -> dict[str, Any] | Complaint:
    if isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns):
        if any("role" not in turn and "from" in turn for turn in turns):
            return _sharegpt(turns)
        return {"messages": [{"role": turn.get("role"), "content": turn.get("content")} for turn in turns]}
    return {"messages": turns}


def _sharegpt(turns: list[dict[str, Any]]) -> dict[str, Any] | Complaint:
    """[{"from", "value"}]"""
    for position, turn in enumerate(turns, 1):
        if turn.get("from") not in SPEAKERS:
            return Complaint(f"has a turn {position} from {turn.get('from')!r}: known are {', '.join(SPEAKERS)}")
    return {"messages": [{"role": SPEAKERS[turn["from"]], "content": turn.get("value")} for turn in turns]}


def _alpaca(record: dict[str, Any]) -> dict[str, Any] | Complaint:
    """{"instruction", "input" that may be empty, "output"}: the instruction, an empty line, the input."""
    for name in ("instruction", "output"):
        if told := fields.text(name, record[name]):
            return Complaint(told)
    more = record.get("input")
    if more is not None and not isinstance(more, str):
        return Complaint(f"has no text in 'input' but {fields.shown(more)}")
    asked = f"{record['instruction']}\n\n{more}" if more and more.strip() else record["instruction"]
    return {"input": asked, "target": record["output"]}
