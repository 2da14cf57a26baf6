"""A tokenizer.json with fewer tokens, which cuts every text whose tokens it has kept into the very same ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from manta.data.tokenizers.engines import byte_letters
from manta.data.tokenizers.unigram import BYTES
from manta.errors import InputError

SETTING = "compress.vocabulary"
TYPES = ("BPE", "WordPiece", "Unigram")


class Spelling:
    """What it takes to spell tokens. `always` are the ids that stay whatever a text uses: special and other added
    tokens, the unknown one, and bytes (or single characters, where there are no bytes), so that every text can be written.

    Raises InputError for a tokenizer of another type, or BPE that marks the ends of words.
    """

    def __init__(self, tokenizer_json: str):
        described = json.loads(tokenizer_json)
        model: dict[str, Any] = described["model"]
        self.kind = model.get("type")
        if self.kind not in TYPES or (model.get("continuing_subword_prefix") and self.kind == "BPE"):
            raise InputError(
                f"{SETTING}: a tokenizer of type {self.kind!r} cannot be trimmed: leave {SETTING} out, or name a model.source "
                f"whose tokenizer.json is of type {', '.join(TYPES)}"
            )
        if model.get("end_of_word_suffix"):
            raise InputError(
                f"{SETTING}: a tokenizer that marks the ends of words cannot be trimmed: leave {SETTING} out"
            )
        self.ids = ids(described)
        self.size = max(self.ids.values()) + 1
        self.byte_fallback = bool(model.get("byte_fallback"))
        self.special = {int(token["id"]) for token in described.get("added_tokens", [])}
        self.always = self.special | self._alphabet(described)
        self.ranks: dict[tuple[str, str], int] = {}
        for rank, pair in enumerate(model.get("merges", [])):
            self.ranks.setdefault(_pair(pair), rank)
        self.words = {number: word for word, number in self.ids.items()}

    def requires(self, number: int) -> set[int]:
        """The token itself and, of BPE, all that merging makes on the way to it.

        No merge is ever taken back, so of a text whose tokens stay no other token is made on the way. Merges are chosen
        by rank among those that are possible; taking away merges that were never chosen changes no choice.
        """
        if self.kind != "BPE" or number in self.always:
            return {number}
        seen = {self.words[number]}
        parts = [part for letter in self.words[number] for part in self._letter(letter)]
        seen.update(parts)
        while True:
            possible = [(self.ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in self.ranks]
            if not possible:
                return {self.ids[part] for part in seen if part in self.ids}
            place = min(possible)[1]
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
            seen.add(parts[place])

    def _letter(self, letter: str) -> list[str]:
        """What BPE starts from for one character."""
        if letter in self.ids or not self.byte_fallback:
            return [letter]
        return [BYTES[byte] for byte in letter.encode()]

    def _alphabet(self, described: dict[str, Any]) -> set[int]:
        model = described["model"]
        named = {model.get("unk_token")}
        if self.kind == "Unigram":
            named.add(None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0])
            # What is unknown costs a fixed amount more than the least likely token.
            named.add(min(model["vocab"], key=lambda entry: entry[1])[0])
        byte_level = "ByteLevel" in json.dumps([described.get("pre_tokenizer"), described.get("normalizer")])
        if self.kind == "BPE" and byte_level:
            named.update(byte_letters())
        if self.byte_fallback:
            named.update(BYTES)
        if not byte_level and not self.byte_fallback:
            prefix = model.get("continuing_subword_prefix") or ""
            named.update(word for word in self.ids if len(word.removeprefix(prefix)) == 1)
        return {self.ids[word] for word in named if word in self.ids}


def ids(described: dict[str, Any]) -> dict[str, int]:
    """Token -> id of a tokenizer.json's content, added tokens included. Unigram models list their tokens by id."""
    listed = described["model"]["vocab"]
    vocabulary = dict(listed) if isinstance(listed, dict) else {word: number for number, (word, _) in enumerate(listed)}
    return vocabulary | {token["content"]: token["id"] for token in described.get("added_tokens", [])}


def choose(spelling: Spelling, counts: Sequence[int], coverage: float | None, keep: int | None) -> list[int]:
    """The ids that stay, ascending: the commonest, each with all that it requires.

    `counts[id]` is how often a token stands in the text. They stay until `coverage` of what the counts add up to is
    reached (special tokens aside: padding says nothing), or until one more would make them more than `keep`. Tokens that
    the text does not use come last, the lowest id first: tokenizers number what was common where they were trained before
    what was rare. Raises InputError if `keep` is fewer than what always stays, or nothing would go.
    """
    if keep is not None and keep < len(spelling.always):
        raise InputError(
            f"{SETTING}.keep = {keep}: special tokens and the alphabet alone are {len(spelling.always)}: raise it"
        )
    weights = {number: int(count) for number, count in enumerate(counts) if count and number not in spelling.special}
    weights = {number: count for number, count in weights.items() if number in spelling.words}
    stays = set(spelling.always)
    total, covered = sum(weights.values()), sum(weights.get(number, 0) for number in stays)
    for number in sorted(spelling.words, key=lambda number: (-weights.get(number, 0), number)):
        if coverage is not None and covered >= coverage * total:
            break
        new = spelling.requires(number) - stays
        if keep is not None and len(stays) + len(new) > keep:
            break
        stays |= new
        covered += sum(weights.get(each, 0) for each in new)
    if len(stays) == len(spelling.ids):
        raise InputError(
            f"{SETTING}: all {len(stays)} tokens would stay: leave {SETTING} out, or set a lower {SETTING}.keep"
        )
    return sorted(stays)


def trim(tokenizer_json: str, kept: Sequence[int]) -> str:
    """The tokenizer.json that has the tokens `kept` (ids, ascending) alone, numbered by their places there.

    Their order stays, so that ids which followed the order of merges still do. Raises InputError if `tokenizers` would
    number the added tokens otherwise.
    """
    from tokenizers import Tokenizer

    described = json.loads(tokenizer_json)
    model, new = described["model"], {number: place for place, number in enumerate(kept)}
    wanted = {word: new[number] for word, number in ids(described).items() if number in new}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {word: new[number] for word, number in model["vocab"].items() if number in new}
    else:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    if "merges" in model:
        model["merges"] = [
            pair for pair in model["merges"] if all(part in wanted for part in (*_pair(pair), "".join(_pair(pair))))
        ]
    for token in described["added_tokens"]:
        token["id"] = new[token["id"]]
    described["post_processor"] = _renumbered(described.get("post_processor"), new)
    if described.get("padding"):
        described["padding"]["pad_id"] = new[described["padding"]["pad_id"]]
    text = json.dumps(described, ensure_ascii=False, indent=2)
    if Tokenizer.from_str(text).get_vocab(with_added_tokens=True) != wanted:
        raise InputError(
            f"{SETTING}: added tokens lie between others in a way that cannot be numbered anew: leave it out"
        )
    return text


def pieces(tokenizer_json: str, words: Iterable[str]) -> dict[str, list[int]]:
    """How a trimmed tokenizer's model spells tokens that it has lost: token -> ids."""
    from tokenizers import Tokenizer

    backend, described = Tokenizer.from_str(tokenizer_json), json.loads(tokenizer_json)
    if described["model"]["type"] == "WordPiece":
        return {word: _longest_first(word, described["model"]) for word in words}
    return {word: [token.id for token in backend.model.tokenize(word)] for word in words}


def _longest_first(word: str, model: dict[str, Any]) -> list[int]:
    """WordPiece of a piece that may itself continue a word; what cannot be spelt is one unknown token."""
    prefix, vocab = model["continuing_subword_prefix"], model["vocab"]
    left, found = word, []
    while left not in ("", prefix):
        inside = left.startswith(prefix)
        bare = left.removeprefix(prefix) if inside else left
        mark = prefix if inside else ""
        end = next((end for end in range(len(bare), 0, -1) if mark + bare[:end] in vocab), 0)
        if not end:
            return [vocab[model["unk_token"]]]
        found.append(vocab[mark + bare[:end]])
        left = prefix + bare[end:]
    return found


def _pair(merge: Any) -> tuple[str, str]:
    """Both halves of a merge. Older files write them as one text with a space."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _renumbered(processor: Any, new: dict[int, int]) -> Any:
    """A post-processor with the ids of the tokens that it puts around a text."""
    if not isinstance(processor, dict):
        return processor
    changed = dict(processor)
    for inner in ("processors",):
        if inner in changed:
            changed[inner] = [_renumbered(each, new) for each in changed[inner]]
    if isinstance(changed.get("special_tokens"), dict):
        changed["special_tokens"] = {
            name: {**token, "ids": [new[number] for number in token["ids"]]}
            for name, token in changed["special_tokens"].items()
        }
    for end in ("sep", "cls"):
        if end in changed:
            changed[end] = [changed[end][0], new[changed[end][1]]]
    return changed
