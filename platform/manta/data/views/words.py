"""What a tokenizer's ids are to masking: special or not, within a word or at its start, the end of a sentence or not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.data.cleaning.words import UNSPACED
from manta.data.tokenizers.directory import CONFIG
from manta.data.tokenizers.engines import byte_letters
from manta.data.tokenizers.unigram import SPACE
from manta.data.tokenizers.wordpiece import PREFIX
from manta.storage import Folder

MASKS = ("[MASK]", "<mask>", "<|mask|>")  # how a mask token is spelt where the configuration names none
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# The first bytes of letters of two bytes: Latin with accents, Greek, Cyrillic, Hebrew, Arabic: scripts with spaces.
TWO_BYTES = range(0xC3, 0xE0)
WITHIN = range(0x80, 0xC0)  # bytes that stand within a letter
CLOSING = "\"'”’»)]}」』"
# As BART has it, any full stop ends one; a line's end does too.
SENTENCE_END = re.compile(rf"[.!?。！？…][{re.escape(CLOSING)}]*\s*$|\n\s*$")


@dataclass(frozen=True, eq=False)
class Ids:
    """Tables over all ids, bool (vocab_size,), and what masking puts in a token's place."""

    special: np.ndarray  # holds no text: never hidden, never put in another's place
    continues: np.ndarray  # belongs to the word of the token before it
    ends: np.ndarray  # closes a sentence
    ordinary: np.ndarray  # int32 (n,): the ids of text
    mask_id: int | None  # None where the tokenizer has no such token


def read(folder: Folder, vocab_size: int) -> Ids:
    """The tables of the tokenizer in `folder` (tokenizer.json and, where there is one, tokenizer_config.json)."""
    text = folder.read_text("tokenizer.json")
    described = json.loads(text)
    vocabulary = _vocabulary(text)
    special = np.ones(vocab_size, dtype=bool)  # an id without a token is no text either
    continues, ends = np.zeros(vocab_size, dtype=bool), np.zeros(vocab_size, dtype=bool)
    marked = {token["content"] for token in described["added_tokens"] if token["special"]}
    letters = _letters(described)
    for token, number in vocabulary.items():
        if number < vocab_size and token not in marked:
            special[number] = False
            starts, spelt = _spelt(token, described, letters)
            continues[number] = not starts and _within_a_word(spelt)
            ends[number] = bool(SENTENCE_END.search(spelt.decode("utf-8", errors="ignore")))
    ordinary = np.flatnonzero(~special).astype(np.int32)
    return Ids(special, continues, ends, ordinary, _mask_id(folder, vocabulary))


def _vocabulary(text: str) -> dict[str, int]:
    from tokenizers import Tokenizer

    return dict(Tokenizer.from_str(text).get_vocab(with_added_tokens=True))


def _mask_id(folder: Folder, vocabulary: Mapping[str, int]) -> int | None:
    named: Any = None
    if folder.exists(CONFIG):
        named = json.loads(folder.read_text(CONFIG)).get("mask_token")
    if isinstance(named, dict):
        named = named["content"]
    candidates = (named,) if named else MASKS
    return next((vocabulary[token] for token in candidates if token in vocabulary), None)


def _letters(described: Mapping[str, Any]) -> dict[str, int] | None:
    """The letter of each byte where the tokenizer is byte-level, else None."""
    stated = json.dumps([described.get("pre_tokenizer"), described.get("decoder")])
    return byte_letters() if '"ByteLevel"' in stated else None


def _spelt(token: str, described: Mapping[str, Any], letters: Mapping[str, int] | None) -> tuple[bool, bytes]:
    """Whether the token itself says that it starts a word, and the UTF-8 bytes that it stands for."""
    model = described["model"]
    if model.get("type") == "WordPiece":
        prefix = model.get("continuing_subword_prefix") or PREFIX
        return not token.startswith(prefix), token.removeprefix(prefix).encode()
    if letters is not None:
        spelt = b"".join(bytes([letters[letter]]) if letter in letters else letter.encode() for letter in token)
        return spelt[:1].isspace(), spelt
    if byte := BYTE.fullmatch(token):
        return False, bytes([int(byte[1], 16)])
    return token.startswith(SPACE), token.replace(SPACE, " ").encode()


def _within_a_word(spelt: bytes) -> bool:
    """Whether a token that is not marked as a word's start continues one, by its first letter.

    Letters and digits do, but for scripts that put no spaces between words; marks and spaces do not.
    """
    first = spelt[0] if spelt else 0x20
    if first in WITHIN:
        return True
    size = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if len(spelt) < size:  # the letter's other bytes are the next token's
        return first in TWO_BYTES
    letter = spelt[:size].decode("utf-8", errors="replace")
    return letter.isalnum() and not UNSPACED.match(letter)
