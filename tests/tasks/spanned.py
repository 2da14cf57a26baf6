"""Ten examples with entities and ten questions, and a tiny BERT whose tokenizer knows the words of given texts, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def related(text: str, head: str, tail: str, label: str) -> dict[str, Any]:
    """An example by the first place of both entities."""
    spans = [[text.index(word), text.index(word) + len(word)] for word in (head, tail)]
    return {"text": text, "head": spans[0], "tail": spans[1], "label": label}


def asked(question: str, context: str, *found: str) -> dict[str, Any]:
    """A question by the first place of each answer."""
    return {
        "question": question,
        "context": context,
        "answers": [{"text": answer, "start": context.index(answer)} for answer in found],
    }


NAMES = ("anna", "ben", "clara", "david", "emma")
SENTENCE = "{} of acme met the mayor of paris"
# The same texts twice: what is asked follows from the marks alone.
RELATIONS = [
    example
    for name in NAMES
    for example in (
        related(SENTENCE.format(name), name, "acme", "works_for"),
        related(SENTENCE.format(name), name, "paris", "none"),
    )
]
CONTEXT = "in may {} sold a red boat to the old king of spain"
QUESTIONS = [
    example
    for name in NAMES
    for example in (
        asked("who sold it ?", CONTEXT.format(name), name),
        asked("who has it ?", CONTEXT.format(name), "the old king of spain"),
    )
]
MISSING = [
    *QUESTIONS[:6],
    *(asked("what cost it ?", CONTEXT.format(name)) for name in NAMES[:4]),
]


def bert(folder: Path, texts: Iterable[str], seed: int = 0, **given: Any) -> Path:
    """A Hugging Face directory of an untrained BERT, by default a tiny one without dropout, and its WordPiece tokenizer."""
    import torch
    import transformers

    from manta.data import tokenizer
    from manta.sections.prepare import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    } | given  # fmt: skip
    vocab = sizes.pop("vocab_size", 300)
    settings = Tokenizer.model_validate({"type": "wordpiece", "lowercase": True, "vocab_size": vocab})
    tokenizer.make(settings, None, iter(list(texts) * 3), folder)
    found = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(vocab_size=len(found), pad_token_id=found.pad_token_id, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def texts(examples: Iterable[dict[str, Any]]) -> list[str]:
    """All that a tokenizer should know."""
    return [str(example[name]) for example in examples for name in ("text", "question", "context") if name in example]
