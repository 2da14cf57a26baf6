"""A tokenizer as a Hugging Face directory: what is written, where one is found, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta import package
from manta.errors import InputError
from manta.storage import Folder

# Files of a Hugging Face directory that make up its tokenizer.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
)
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
# Tokenizers of BERT's kind name no end or begin of text, but these, which stand in their place.
STAND_IN = {"eos_token": "sep_token", "bos_token": "cls_token"}


@dataclass(frozen=True)
class Facts:
    """A tokenizer's size (ids are below it) and special ids, None where it has no such token."""

    vocab_size: int
    eos_id: int
    bos_id: int | None
    pad_id: int | None
    sentinels: tuple[int, ...] = ()  # <extra_id_0>, ...: what stands for hidden spans


def write(folder: Path, tokenizer_json: str, roles: dict[str, str], extra: list[str], template: str | None) -> None:
    """Write a Hugging Face directory that `transformers.AutoTokenizer` loads.

    `roles` are the tokens with a meaning (eos_token, ...), `extra` the other special ones.
    """
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "extra_special_tokens": extra,
        "clean_up_tokenization_spaces": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")


def find(path: str) -> Folder:
    """Where an artifact, a Hugging Face directory or a `package:NAME` keeps its tokenizer. Raises InputError if it has
    no fast one."""
    root = Folder(package.convert(path) if path.startswith("package:") else path)
    for folder in (root / "tokenizer", root / "model", root):
        if folder.exists("tokenizer.json"):
            return folder
    raise InputError(
        f"tokenizer.source: {path} holds no tokenizer.json: choose another, or convert its tokenizer with "
        "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def copy(source: Folder, folder: Path) -> None:
    """Copy a tokenizer's files as they are."""
    for name in FILES:
        if source.exists(name):
            (folder / name).write_text(source.read_text(name), encoding="utf-8")


def facts(folder: Folder) -> Facts:
    """Read a tokenizer's facts from its files. Raises InputError if it names no end-of-text token."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(folder.read_text("tokenizer.json"))
    named: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG):
        if folder.exists(name):
            named.update(json.loads(folder.read_text(name)))

    def token_id(role: str) -> int | None:
        token = named.get(role)
        return tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None

    for role, other in STAND_IN.items():
        named[role] = named.get(role) or named.get(other)
    eos_id = token_id("eos_token")
    if eos_id is None:
        raise InputError(f"{folder.url} names no eos_token in tokenizer_config.json: packing needs one, add it there")
    sentinels: list[int] = []
    while (sentinel := tokenizer.token_to_id(f"<extra_id_{len(sentinels)}>")) is not None:
        sentinels.append(sentinel)
    # Ids may have gaps: what embeddings must cover is the highest id, not the number of tokens.
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Facts(size, eos_id, token_id("bos_token"), token_id("pad_token"), tuple(sentinels))
