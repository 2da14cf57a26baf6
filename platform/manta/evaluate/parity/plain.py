"""Transformers' side: what its tokenizer and the class that config.json names make of a probe, called as any user calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.evaluate.parity.probes import Probe
from manta.evaluate.parity.scores import Believed
from manta.evaluate.parity.subject import Subject
from manta.evaluate.parity.trainer import of_row


def conversation_ids(messages: Sequence[dict[str, str]], tokenizer: Any) -> list[int]:
    """What stands before an answer: a conversation through the tokenizer's own chat template."""
    found = tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True, return_dict=True)
    return [int(number) for number in found["input_ids"]]


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """A text as the tokenizer encodes it by default, with the special tokens that it puts around it."""
    return [int(number) for number in tokenizer(text)["input_ids"]]


def columns(probe: Probe, subject: Subject, tokenizer: Any, limit: int) -> dict[str, Any]:
    """An example for a head as Transformers' pipelines encode it, cut to `limit` tokens."""
    cut = {"truncation": "longest_first", "max_length": limit, "return_attention_mask": True}
    example = probe.example or {"text": probe.text}
    if subject.objective == "token_labels":
        words = example.get("tokens") or probe.text.split()
        return dict(tokenizer(list(words), is_split_into_words=True, **cut))
    pair = example.get("text_pair")
    return dict(tokenizer(example["text"], pair, **cut) if pair is not None else tokenizer(example["text"], **cut))


def load(subject: Subject) -> Any:
    """The class that config.json names, float32."""
    import torch

    from manta.models import classes

    classes.know(subject.config)
    return classes.named(subject.config).from_pretrained(
        subject.folder, dtype=torch.float32, local_files_only=True
    ).eval()  # fmt: skip


def believe(model: Any, subject: Subject, found: Sequence[dict[str, Any]]) -> list[Believed]:
    """Beliefs about rows of columns, each row by itself and unpadded."""
    import torch

    beliefs = []
    for row in found:
        given = {name: torch.tensor([list(values)]) for name, values in row.items()}  # (1, seq)
        if subject.objective == "denoising":
            given["labels"] = given["input_ids"]
        with torch.inference_mode():
            outputs = model(**given)
        beliefs.append(of_row(subject, outputs, 0, row["input_ids"], len(row["input_ids"])))
    return beliefs
