"""A few rows of a prepared split, chosen by seed, for a model that reads them: calibration's and evaluation's input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manta.data.shards import COLUMN, Shard, load_index, read_rows
from manta.errors import InputError
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np


def locate(rows: Sequence[int], shards: Sequence[Shard]) -> dict[str, list[tuple[int, int]]]:
    """Where rows of a split are: shard path -> [(place in `rows`, row within the shard), ...]."""
    places: dict[str, list[tuple[int, int]]] = {}
    first = 0
    for shard in shards:
        inside = [(place, row - first) for place, row in enumerate(rows) if first <= row < first + shard.rows]
        if inside:
            places[shard.path] = inside
        first += shard.rows
    return places


def sample_rows(folder: Folder, split: str, count: int, seed: int, column: str = COLUMN) -> np.ndarray:
    """`count` rows of the split (all, if it has fewer), each once: (rows, width) int32, a pure function of the seed.

    A larger count of the same seed begins with the rows of a smaller one.
    """
    import numpy as np

    from manta.data.order import permute

    index = load_index(folder)
    total = index.rows(split)
    chosen = permute(np.arange(min(count, total)), total, seed)  # (rows,)
    found: dict[int, np.ndarray] = {}
    for path, places in locate(chosen.tolist(), index.splits[split]).items():
        shard = read_rows(folder, path, column)
        found |= {place: shard[row] for place, row in places}
    if not found:
        return np.empty((0, index.seq_len), dtype=np.int32)
    return np.stack([found[place] for place in range(len(chosen))])


def sample_documents(folder: Folder, split: str, count: int, seed: int) -> list[list[int]]:
    """The documents (or parts of them) in `count` rows, chosen as by `sample_rows`: lists of at least two ids.

    Rows whose documents do not see each other in training are cut where one begins; others are taken whole.
    """
    import numpy as np

    rows = sample_rows(folder, split, count, seed)
    if "position_ids" not in load_index(folder).columns:
        return [list(row) for row in rows.tolist()]
    positions = sample_rows(folder, split, count, seed, "position_ids")
    found: list[list[int]] = []
    for row, place in zip(rows, positions, strict=True):
        found += [part.tolist() for part in np.split(row, np.flatnonzero(place == 0)[1:]) if len(part) > 1]
    return found


def check_vocabulary(folder: Folder, model: Folder) -> None:
    """Raise InputError unless the token ids of the prepared `folder` mean the same to the model's own tokenizer.

    `model` is a Hugging Face directory. Only tokenizer.json can tell: models without one are taken on trust.
    """
    if not model.exists("tokenizer.json"):
        return
    words, known = _vocabulary(folder, "tokenizer/tokenizer.json"), _vocabulary(model, "tokenizer.json")
    strange = [word for word, number in words.items() if known.get(word) != number]
    if strange:
        raise InputError(
            f"{folder.url} was prepared with another tokenizer than that of {model.url}: {len(strange)} of {len(words)} tokens differ "
            f"(such as {strange[0]!r}): prepare the text with tokenizer.source set to this model"
        )


def _vocabulary(folder: Folder, name: str) -> dict[str, int]:
    """Token -> id of a tokenizer.json, special tokens included. Unigram models list their tokens by id."""
    content = json.loads(folder.read_text(name))
    listed = content["model"]["vocab"]
    vocabulary = dict(listed) if isinstance(listed, dict) else {word: number for number, (word, _) in enumerate(listed)}
    return vocabulary | {token["content"]: token["id"] for token in content.get("added_tokens", [])}
