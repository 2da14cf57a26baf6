"""Rows of a tokenizer for a model whose vocabulary was trimmed since: ids are renumbered, lost tokens spelt in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from manta.data.tokenizers import trim
from manta.errors import InputError
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

# Beside a trimmed model's tokenizer. Its name begins as those of tokenizer files do, which go wherever the tokenizer goes.
MAP = "vocabulary_map.json"

Respell = Callable[[Sequence[int]], list[int]]  # a row's ids -> the model's ids of the same text


class Trimmed(NamedTuple):
    """`kept[id]` is the id that a token had among `vocab_size` before."""

    vocab_size: int
    kept: list[int]


def write(folder: Path, trimmed: Trimmed) -> None:
    (folder / MAP).write_text(json.dumps(trimmed._asdict()) + "\n", encoding="utf-8")


def read(model: Folder) -> Trimmed | None:
    """How the vocabulary of a Hugging Face directory was trimmed; None where it was not."""
    return Trimmed(**json.loads(model.read_text(MAP))) if model.exists(MAP) else None


def check_vocabulary(folder: Folder, model: Folder) -> None:
    """Raise InputError unless the token ids of the prepared `folder` mean the same to the model's own tokenizer, as they
    are or after `respeller`.

    `model` is a Hugging Face directory. Only tokenizer.json can tell: models without one are taken on trust.
    """
    if not model.exists("tokenizer.json"):
        return
    words, known = _vocabulary(folder), _vocabulary(model)
    strange = _strange(words, known, None)
    if strange and (trimmed := read(model)) is not None:
        strange = _strange(words, known, trimmed)
    if strange:
        raise InputError(
            f"{folder.url} was prepared with another tokenizer than that of {model.url}: {len(strange)} of {len(words)} tokens differ "
            f"(such as {strange[0]!r}): prepare the text with tokenizer.source set to this model"
        )


def respeller(folder: Folder, model: Folder) -> Respell | None:
    """What turns rows of the prepared `folder` into the model's ids; None where they are its ids already.

    A token that the model has lost becomes the tokens that its tokenizer spells it with: the row stands for the same
    text, in more tokens. Raises InputError as `check_vocabulary` does.
    """
    check_vocabulary(folder, model)
    trimmed = read(model)
    if trimmed is None:
        return None
    words, known = _vocabulary(folder), _vocabulary(model)
    if not _strange(words, known, None):
        return None
    new = {old: [place] for place, old in enumerate(trimmed.kept)}
    spelt = trim.pieces(model.read_text("tokenizer.json"), (w for w, number in words.items() if number not in new))
    new |= {words[word]: found for word, found in spelt.items()}
    return lambda row: [piece for number in row for piece in new[int(number)]]


def respelt(rows: np.ndarray, folder: Folder, model: Folder) -> np.ndarray:
    """Rows (rows, seq) int32 in the model's ids, each cut where it became longer than the longest. Where a row has ended
    before, it holds negative numbers, which stay behind its end."""
    import numpy as np

    spell = respeller(folder, model)
    if spell is None:
        return rows
    found = np.full(rows.shape, rows.min(initial=0), dtype=np.int32)
    for place, row in enumerate(rows):
        ids = spell(row[row >= 0].tolist())[: rows.shape[1]]
        found[place, : len(ids)] = ids
    return found


def _strange(words: dict[str, int], known: dict[str, int], trimmed: Trimmed | None) -> list[str]:
    """The tokens of `words` whose ids mean something else to the model."""
    if trimmed is None:
        return [word for word, number in words.items() if known.get(word) != number]
    new = {old: place for place, old in enumerate(trimmed.kept)}
    outside: Iterable[str] = (word for word, number in words.items() if number >= trimmed.vocab_size)
    return [*outside, *(word for word, number in words.items() if known.get(word) != new.get(number))]


def _vocabulary(folder: Folder) -> dict[str, int]:
    """Token -> id of the tokenizer.json of prepared rows or of a model's directory, special tokens included."""
    beside = "tokenizer/tokenizer.json"
    return trim.ids(json.loads(folder.read_text(beside if folder.exists(beside) else "tokenizer.json")))
