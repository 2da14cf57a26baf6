"""All clean documents seen from above, without their texts: which are kept, where they stand, which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manta.data import dedup, shards, work
from manta.progress import Progress
from manta.storage import Folder

# Documents of which Python objects are made at once: some hundred bytes each.
PIECE = 1 << 16


@dataclass(frozen=True)
class Corpus:
    """Clean documents in order, without their texts: 52 bytes of the driver's memory each, and their ids."""

    parts: list[str]  # files below work/cleaned
    ids: Any  # pyarrow large_string (num_documents,)
    source: np.ndarray  # int32 (num_documents,): index into `sources`
    sources: list[str]
    part: np.ndarray  # int32 (num_documents,): which part
    row: np.ndarray  # int32 (num_documents,): which row of it
    chars: np.ndarray  # int64 (num_documents,)
    digests: np.ndarray  # uint8 (num_documents, 16)
    kept: np.ndarray  # int64 (num_kept,): indices, ascending
    num_read: int  # documents from here on were made by augmentation
    remove: str | None = None  # a file of hashes: lines that the next phase takes out

    @property
    def num_kept(self) -> int:
        return len(self.kept)

    def pieces(self, indices: np.ndarray) -> list[tuple[str, list[int]]]:
        """Where documents (indices in ascending order) stand: (part, rows) pairs."""
        part, row = self.part[indices], self.row[indices]
        cuts = np.flatnonzero(np.diff(part)) + 1
        starts = np.concatenate([[0], cuts])[: len(part)]
        return [
            (self.parts[number], rows.tolist())
            for number, rows in zip(part[starts].tolist(), np.split(row, cuts), strict=False)
        ]

    def texts(self, folder: Folder, indices: list[int]) -> Iterator[str]:
        """The texts of documents (indices in ascending order), one part in memory at a time."""
        for piece in self.pieces(np.asarray(indices, dtype=np.int64)):
            yield from work.take(folder, [piece]).column("text").to_pylist()

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the sorted (id, digest) pairs: what is kept, and where it stands."""
        import pyarrow.compute as pc

        kept = np.zeros(len(self.ids), dtype=bool)
        kept[self.kept] = True
        order = pc.array_sort_indices(self.ids).to_numpy()  # UTF-8 sorts as Python's strings do
        order = order[kept[order]]
        hasher = hashlib.sha256()
        for start in range(0, len(order), PIECE):
            some = order[start : start + PIECE]
            for name, digest in zip(self.ids.take(some).to_pylist(), self.digests[some], strict=True):
                hasher.update(name.encode() + b"\0" + digest.tobytes())
        return hasher.hexdigest()


def gather(folder: Folder, parts: list[str]) -> Corpus:
    """All documents of the cleaned parts, in order, all of them kept."""
    import pyarrow as pa

    known: dict[str, int] = {}  # source -> its number
    ids, source, chars, digests = [], [], [], []
    for path in parts:
        table = shards.read_table(folder, path, ("id", "source", "digest", "chars")).combine_chunks()
        ids.append(_flat(table, "id").cast(pa.large_string()))
        coded = _flat(table, "source").dictionary_encode()
        numbers = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
        source.append(np.array(numbers, dtype=np.int32)[coded.indices.to_numpy(zero_copy_only=False)])
        chars.append(_flat(table, "chars").to_numpy())
        digests.append(np.frombuffer(b"".join(_flat(table, "digest").to_pylist()), dtype=np.uint8))
    sizes = [len(counts) for counts in chars]
    return Corpus(
        parts=parts,
        ids=pa.concat_arrays(ids),
        source=np.concatenate(source),
        sources=list(known),
        part=np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        row=np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        chars=np.concatenate(chars),
        digests=np.concatenate(digests).reshape(-1, dedup.DIGEST_BYTES),
        kept=np.arange(sum(sizes)),
        num_read=sum(sizes),
    )


def _flat(table: Any, name: str) -> Any:
    """A column as one pyarrow array."""
    import pyarrow as pa

    column = table.column(name)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)


def enlarged(folder: Folder, corpus: Corpus, parts: list[str]) -> Corpus:
    """The corpus with the documents of further parts, all of them kept but those with a text that there is already."""
    whole = gather(folder, [*corpus.parts, *parts])
    candidates = np.concatenate([corpus.kept, np.arange(len(corpus.ids), len(whole.ids))])
    new = dedup.first_occurrences(whole.digests[candidates]) == np.arange(len(candidates))
    new[: corpus.num_kept] = True  # whether a corpus may hold a text twice is for its steps to say
    return replace(whole, kept=candidates[new], num_read=len(corpus.ids))


@dataclass(frozen=True)
class Split:
    """Which of a corpus's documents are trained on and which are held out, by the hash of their text."""

    corpus: Corpus
    validation: np.ndarray  # bool (num_documents,)
    seed: int

    @classmethod
    def by_hash(cls, corpus: Corpus, fraction: float, seed: int) -> Split:
        """Hold out this fraction of the documents that were read, none of those that augmentation made."""
        validation = dedup.is_validation(corpus.digests, fraction, seed)
        validation[corpus.num_read :] = False
        return cls(corpus, validation, seed)

    def of(self, split: str) -> np.ndarray:
        """Indices of a split's documents, in order."""
        kept = self.corpus.kept
        return kept[self.validation[kept] == (split == "validation")]

    def sample(self, chars: int) -> np.ndarray:
        """Indices of training documents, drawn by hash until `chars` characters are reached, in the order drawn.

        Documents that augmentation made are no sample of the corpus.
        """
        train = self.of("train")
        train = train[train < self.corpus.num_read]
        drawn = train[dedup.sample_rank(self.corpus.digests[train], self.seed).argsort(kind="stable")]
        return drawn[: max(1, int((self.corpus.chars[drawn].cumsum() <= chars).sum()))]


# --- steps on the whole corpus ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    """What a step on the corpus works with: it may spread tasks, `at_once` of them, and write below work/NAME."""

    folder: Folder
    name: str  # of its dropped table and its working files: phase and step
    at_once: int
    keep_dropped: str
    progress: Progress


CorpusStep = Callable[[Corpus, Any, Context], Corpus]


def without(corpus: Corpus, repeats: np.ndarray, of: np.ndarray, reason: str, context: Context) -> Corpus:
    """The corpus without the documents `repeats`; `of` are those that are kept in their place (indices)."""
    if len(repeats) and context.keep_dropped != "none":
        shards.write_table(context.folder, f"dropped/{context.name}.parquet", _dropped(corpus, repeats, of, reason))
    return replace(corpus, kept=np.setdiff1d(corpus.kept, repeats, assume_unique=True))


def _dropped(corpus: Corpus, repeats: np.ndarray, of: np.ndarray, reason: str) -> Any:
    """The table that `work.write_dropped` makes, without a Python object for each document."""
    import pyarrow as pa

    def names(array: Any, chosen: np.ndarray) -> Any:
        pieces = [array.take(chosen[start : start + PIECE]) for start in range(0, len(chosen), PIECE)]
        return pa.chunked_array([piece.cast(pa.string()) for piece in pieces])

    columns = {
        "id": names(corpus.ids, repeats),
        "source": names(pa.array(corpus.sources), corpus.source[repeats]),
        "reason": pa.repeat(pa.scalar(reason), len(repeats)),
        "detail": names(corpus.ids, of),
    }
    return pa.table(columns)


def exact_dedup(corpus: Corpus, _step: Any, context: Context) -> Corpus:
    """Keep the first of each text in (source, path, index) order."""
    first = corpus.kept[dedup.first_occurrences(corpus.digests[corpus.kept])]
    repeated = first != corpus.kept
    return without(corpus, corpus.kept[repeated], first[repeated], "exact_dedup", context)
