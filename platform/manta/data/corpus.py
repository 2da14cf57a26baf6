"""All clean documents seen from above, without their texts: which are kept, where they stand, which are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from manta.data import dedup, shards, steps
from manta.schema import PrepareRecipe
from manta.storage import Folder


@dataclass(frozen=True)
class Corpus:
    """All clean documents in order, without their texts: about 200 bytes of the driver's memory each."""

    parts: list[str]  # files below work/cleaned
    ids: list[str]
    part: Any  # int64 (num_documents,): which part
    row: Any  # int64 (num_documents,): which row of it
    chars: Any  # int64 (num_documents,)
    digests: Any  # uint8 (num_documents, 16)
    kept: Any  # int64 (num_kept,): indices of the first of each text
    validation: Any  # bool (num_documents,)

    @property
    def num_kept(self) -> int:
        return len(self.kept)

    def of(self, split: str) -> Any:
        """Indices of a split's documents, in order."""
        return self.kept[self.validation[self.kept] == (split == "validation")]

    def sample(self, seed: int, chars: int) -> Any:
        """Indices of training documents, drawn by hash until `chars` characters are reached, in the order drawn."""
        train = self.of("train")
        drawn = train[dedup.sample_rank(self.digests[train], seed).argsort(kind="stable")]
        return drawn[: max(1, int((self.chars[drawn].cumsum() <= chars).sum()))]

    def pieces(self, indices: Any) -> list[tuple[str, list[int]]]:
        """Where documents (indices in ascending order) stand: (part, rows) pairs."""
        by_part: dict[int, list[int]] = {}
        for part, row in zip(self.part[indices].tolist(), self.row[indices].tolist(), strict=True):
            by_part.setdefault(part, []).append(row)
        return [(self.parts[part], rows) for part, rows in by_part.items()]

    def texts(self, folder: Folder, indices: list[int]) -> Iterator[str]:
        """The texts of documents (indices in ascending order), one part in memory at a time."""
        for piece in self.pieces(indices):
            yield from steps.take(folder, [piece]).column("text").to_pylist()

    def fingerprint(self) -> str:
        return dedup.ordered_hash([self.ids[i] for i in self.kept.tolist()], self.digests[self.kept])


def gather(recipe: PrepareRecipe, folder: Folder, parts: list[str]) -> Corpus:
    """Keep the first of each text in (source, path, index) order; hold out the validation documents.

    `parts` are the cleaned documents' files, in order. Writes dropped/duplicates.parquet where a text is repeated.
    """
    import numpy as np
    import pyarrow as pa

    tables = [shards.read_table(folder, path, ("id", "source", "digest", "chars")) for path in parts]
    table = pa.concat_tables(tables).combine_chunks()
    digests = np.frombuffer(b"".join(table.column("digest").to_pylist()), dtype=np.uint8).reshape(
        -1, dedup.DIGEST_BYTES
    )
    ids = table.column("id").to_pylist()
    first = dedup.first_occurrences(digests) if recipe.data.dedup == "exact" else np.arange(len(ids))
    repeats = np.nonzero(first != np.arange(len(ids)))[0]
    if len(repeats):
        origin = table.column("source").to_pylist()
        steps.write_dropped(folder, "duplicates", [(ids[i], origin[i], "duplicate", ids[first[i]]) for i in repeats])
    return Corpus(
        parts=parts,
        ids=ids,
        part=np.repeat(np.arange(len(tables)), [len(t) for t in tables]),
        row=np.concatenate([np.arange(len(t)) for t in tables]),
        chars=table.column("chars").to_numpy(),
        digests=digests,
        kept=np.nonzero(first == np.arange(len(ids)))[0],
        validation=dedup.is_validation(digests, recipe.data.validation_fraction, recipe.seed),
    )
