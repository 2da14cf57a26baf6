"""All clean documents seen from above, without their texts: which are kept, where they stand, which are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manta.data import dedup, shards, work
from manta.progress import Progress
from manta.storage import Folder


@dataclass(frozen=True)
class Corpus:
    """Clean documents in order, without their texts: about 200 bytes of the driver's memory each."""

    parts: list[str]  # files below work/cleaned
    ids: list[str]
    source: np.ndarray  # int64 (num_documents,): index into `sources`
    sources: list[str]
    part: np.ndarray  # int64 (num_documents,): which part
    row: np.ndarray  # int64 (num_documents,): which row of it
    chars: np.ndarray  # int64 (num_documents,)
    digests: np.ndarray  # uint8 (num_documents, 16)
    kept: np.ndarray  # int64 (num_kept,): indices, ascending
    remove: str | None = None  # a file of hashes: lines that the next phase takes out

    @property
    def num_kept(self) -> int:
        return len(self.kept)

    def pieces(self, indices: np.ndarray) -> list[tuple[str, list[int]]]:
        """Where documents (indices in ascending order) stand: (part, rows) pairs."""
        by_part: dict[int, list[int]] = {}
        for part, row in zip(self.part[indices].tolist(), self.row[indices].tolist(), strict=True):
            by_part.setdefault(part, []).append(row)
        return [(self.parts[part], rows) for part, rows in by_part.items()]

    def texts(self, folder: Folder, indices: list[int]) -> Iterator[str]:
        """The texts of documents (indices in ascending order), one part in memory at a time."""
        for piece in self.pieces(np.asarray(indices, dtype=np.int64)):
            yield from work.take(folder, [piece]).column("text").to_pylist()

    def fingerprint(self) -> str:
        return dedup.ordered_hash([self.ids[i] for i in self.kept.tolist()], self.digests[self.kept])


def gather(folder: Folder, parts: list[str]) -> Corpus:
    """All documents of the cleaned parts, in order, all of them kept."""
    import pyarrow as pa

    tables = [shards.read_table(folder, path, ("id", "source", "digest", "chars")) for path in parts]
    table = pa.concat_tables(tables).combine_chunks()
    source = table.column("source").combine_chunks().dictionary_encode()
    digests = np.frombuffer(b"".join(table.column("digest").to_pylist()), dtype=np.uint8)
    return Corpus(
        parts=parts,
        ids=table.column("id").to_pylist(),
        source=source.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        sources=source.dictionary.to_pylist(),
        part=np.repeat(np.arange(len(tables)), [len(t) for t in tables]),
        row=np.concatenate([np.arange(len(t)) for t in tables]),
        chars=table.column("chars").to_numpy(),
        digests=digests.reshape(-1, dedup.DIGEST_BYTES),
        kept=np.arange(len(table)),
    )


@dataclass(frozen=True)
class Split:
    """Which of a corpus's documents are trained on and which are held out, by the hash of their text."""

    corpus: Corpus
    validation: np.ndarray  # bool (num_documents,)
    seed: int

    def of(self, split: str) -> np.ndarray:
        """Indices of a split's documents, in order."""
        kept = self.corpus.kept
        return kept[self.validation[kept] == (split == "validation")]

    def sample(self, chars: int) -> np.ndarray:
        """Indices of training documents, drawn by hash until `chars` characters are reached, in the order drawn."""
        train = self.of("train")
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
        rows = [
            (corpus.ids[i], corpus.sources[corpus.source[i]], reason, corpus.ids[j])
            for i, j in zip(repeats.tolist(), of.tolist(), strict=True)
        ]
        work.write_dropped(context.folder, context.name, rows)
    return replace(corpus, kept=np.setdiff1d(corpus.kept, repeats, assume_unique=True))


def exact_dedup(corpus: Corpus, _step: Any, context: Context) -> Corpus:
    """Keep the first of each text in (source, path, index) order."""
    first = corpus.kept[dedup.first_occurrences(corpus.digests[corpus.kept])]
    repeated = first != corpus.kept
    return without(corpus, corpus.kept[repeated], first[repeated], "exact_dedup", context)
