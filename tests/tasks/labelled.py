"""Ten labelled examples of each kind, and a BERT and a Llama with tokenizers that know their words, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

GOOD, BAD = ("good", "lovely", "fine", "superb", "charming"), ("bad", "dull", "awful", "poor", "tedious")
SENTIMENTS = [
    {"text": f"a {word} film , really", "label": label}
    for words, label in ((GOOD, "positive"), (BAD, "negative"))
    for word in words
]
TOPICS = [
    {"text": text, "labels": names}
    for text, names in [
        ("the match was long", ["sport"]),
        ("the vote was close", ["politics"]),
        ("a vote about the match", ["politics", "sport"]),
        ("the cake was sweet", ["food"]),
        ("cake at the match", ["food", "sport"]),
        ("nothing at all", []),
        ("a vote about cake", ["food", "politics"]),
        ("match and match again", ["sport"]),
        ("they vote again", ["politics"]),
        ("sweet cake again", ["food"]),
    ]
]
NAMES = ("anna", "ben", "clara", "david", "emma")
ENTITIES = [
    {"tokens": [name, "lives", "in", *place.split()], "tags": ["B-PER", "O", "O", *tags]}
    for name in NAMES
    for place, tags in (("paris", ["B-LOC"]), ("new york", ["B-LOC", "I-LOC"]))
]
PAIRS = [
    {"text": f"a {one} film", "text_pair": f"a {other} film", "label": "same" if one == other else "other"}
    for one in GOOD[:5]
    for other in (one, BAD[0])
]
TEXTS: list[str] = [
    *(str(example["text"]) for example in SENTIMENTS + TOPICS),
    *(" ".join(example["tokens"]) for example in ENTITIES),
]


def bert(folder: Path, head: str = "BertForPreTraining", **given: Any) -> Path:
    """A Hugging Face directory of a tiny BERT as our pre-training leaves it, which reads words."""
    import torch
    import transformers

    from manta.data import tokenizer
    from manta.sections.prepare import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.make(
        Tokenizer.model_validate({"type": "wordpiece", "lowercase": True, "vocab_size": 300}),
        None,
        iter(TEXTS * 3),
        folder,
    )
    found = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(found), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pad_token_id=found.pad_token_id, **given,
    )  # fmt: skip
    getattr(transformers, head)(config).save_pretrained(folder)
    return folder


def llama(folder: Path) -> Path:
    """A Hugging Face directory of a tiny Llama, which reads bytes."""
    import torch
    import transformers

    from manta.data import tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.train(iter(["a"]), 300, folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
