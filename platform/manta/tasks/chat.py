"""Chat: conversations of any length, of which the assistant's words are learnt; scored by chrF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.sections.tasks import ChatTask
from manta.tasks.encoding import conversation
from manta.tasks.encoding.conversation import Encoded, Example, Message
from manta.tasks.fields import Field

FIELDS = (Field("messages", "messages"),)  # or input and target, as one exchange


def format(example: Example) -> list[Message]:
    """The example as a conversation: its "messages", or "input" (and "target", if there is one) as one exchange."""
    if "messages" in example:
        return [{"role": message["role"], "content": message["content"]} for message in example["messages"]]
    messages = [{"role": "user", "content": example["input"]}]
    if example.get("target"):
        messages.append({"role": "assistant", "content": example["target"]})
    return messages


def question(example: Example, tokenizer: Any = None, settings: ChatTask | None = None) -> list[Message]:
    """What the model is asked: the conversation without its last answer. Nothing is cut: the server says what fits."""
    del tokenizer, settings
    messages = format(example)
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def reference(example: Example) -> str:
    """The last answer. Raises ValueError if the conversation does not end with one."""
    last = format(example)[-1]
    if last["role"] != "assistant":
        raise ValueError("the conversation does not end with the assistant's words")
    return last["content"]


def decode(text: str) -> str:
    """The answer in a generated text."""
    return text.strip()


def max_new_tokens(settings: ChatTask) -> int:
    """An answer may be as long as a whole training conversation."""
    return settings.max_tokens


def encode(example: Example, tokenizer: Any, settings: ChatTask) -> Encoded:
    """Token ids and labels; only the assistant's words and their end tokens are scored.

    A conversation longer than settings.max_tokens is cut at its end.
    """
    input_ids, labels = conversation.encode(format(example), tokenizer)
    limit = settings.max_tokens
    return Encoded(input_ids[:limit], labels[:limit], len(input_ids) > limit)


def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus chrF in per cent (Popović 2015, character n-grams up to 6, beta 2; computed by sacrebleu)."""
    from sacrebleu.metrics import CHRF

    if not references:
        return {"score": 0.0}
    return {"score": float(CHRF().corpus_score(list(predictions), [list(references)]).score)}
