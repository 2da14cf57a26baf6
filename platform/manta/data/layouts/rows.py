"""What a layout makes of documents, and the positions that tell where one ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.data.tokenizer import Encode, Facts


@dataclass(frozen=True)
class Documents:
    """What a layout reads: the texts of one range of documents, and all that turns them into ids."""

    texts: Sequence[str]
    languages: Sequence[str]
    encode: Encode
    known: Facts
    seq_len: int
    seed: int  # of this range: layouts that draw anything draw it from here

    def closed(self, opened: bool) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all documents, each closed by the end of text, int32 (tokens,), and where each ends.

        `opened` puts the begin of text before each, if the tokenizer has one: a document that does not see the end of
        the one before it needs something to predict its first word from.
        """
        begin = 1 if opened and self.known.bos_id is not None else 0
        pieces = []
        for text in self.texts:
            ids = self.encode(text)
            piece = np.empty(begin + len(ids) + 1, dtype=np.int32)
            piece[:begin] = self.known.bos_id if begin else 0
            piece[begin:-1] = ids
            piece[-1] = self.known.eos_id
            pieces.append(piece)
        stream = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
        return stream, np.cumsum([len(piece) for piece in pieces], dtype=np.int64)

    @property
    def filler(self) -> int:
        """What fills rows up: the padding token, or where there is none the end of text."""
        return self.known.eos_id if self.known.pad_id is None else self.known.pad_id


@dataclass(frozen=True)
class Rows:
    """Rows as shards hold them, and the account of the tokens: text = in rows - padding + left over - added."""

    columns: dict[str, np.ndarray]  # int32 (rows, width), or (rows,) of one number a row; "input_ids" among them
    tokens: int  # of the documents, with those that open and close them
    padding: int = 0  # tokens of the rows that are no text
    left_over: int = 0  # tokens of the documents that stand in no row
    documents_cut: int = 0  # documents that do not stand whole in one row

    @property
    def num_rows(self) -> int:
        return len(self.columns["input_ids"])


Lay = Callable[[Documents, Any], Rows]


def positions(starts: Iterable[int], num_tokens: int) -> np.ndarray:
    """Positions that count from 0 at each of `starts` (and at 0): int32 (num_tokens,)."""
    begins = np.zeros(num_tokens, dtype=np.int64)
    where = np.asarray(list(starts), dtype=np.int64)
    begins[where] = where
    return (np.arange(num_tokens) - np.maximum.accumulate(begins)).astype(np.int32)
