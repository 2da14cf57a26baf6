"""Keeps evaluation sets out of training data: drops documents that share a long n-gram with held-out texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from manta.data import exchange, shards
from manta.data.cleaning.batch import Batch, Outcome, judged
from manta.data.cleaning.words import is_unspaced
from manta.data.shingles import shingles, shingles_of_lengths
from manta.errors import InputError
from manta.sections.prepare import Decontaminate
from manta.storage import Folder

HASHES = "work/corpus/heldout.parquet"
# A word of an unspaced script has about two characters, and says less than one of a spaced script.
UNSPACED_FACTOR = 4
GATHERED = 4096  # texts whose n-grams are hashed at once


def decontaminator(folder: Folder, path: str) -> Callable[[Batch, Any], Outcome]:
    """The step, with the hashes of the held-out n-grams that `path` holds."""
    known = exchange.Known(exchange.read_hashes(folder, path)[0])

    def decontaminate(batch: Batch, settings: Decontaminate) -> Outcome:
        """Drop documents that share `ngram` words in a row (4 x `ngram` characters) with a held-out text."""
        shared = np.zeros(len(batch.texts), dtype=bool)
        lengths = (settings.ngram, UNSPACED_FACTOR * settings.ngram)
        for hashes, offsets in shingles_of_lengths(batch.texts, lengths):
            hits = np.flatnonzero(known.holds(hashes))
            shared[np.searchsorted(offsets, hits, side="right") - 1] = True
        return judged(batch, ["decontaminate.ngram" if hit else None for hit in shared.tolist()])

    return decontaminate


def gather(heldout: Folder, ngrams: Sequence[int], folder: Folder, path: str) -> tuple[int, int]:
    """Write the hashes of all n-grams of the held-out texts to `path`. Returns how many texts and n-grams there are.

    Texts mainly of scripts without spaces give n-grams of 4 x n characters instead of n words. A text that is shorter
    cannot be looked for; raises InputError if all are.
    """
    found: list[Any] = [np.zeros(0, dtype=np.uint64)]
    count, group = 0, []
    for text in texts(heldout):
        count += 1
        group.append(text)
        if len(group) == GATHERED:
            found.append(_hashes(group, ngrams))
            group = []
    hashes = np.unique(np.concatenate([*found, _hashes(group, ngrams)]))
    if not len(hashes):
        raise InputError(
            f"data.heldout: none of the {count} texts of {heldout.url} is as long as the n-gram that decontaminate looks for: "
            "lower its ngram, or name texts that are longer"
        )
    exchange.write_hashes(folder, path, hashes)
    return count, len(hashes)


def _hashes(group: list[str], ngrams: Sequence[int]) -> Any:
    unspaced = [is_unspaced(text) for text in group]
    spaced = [text for text, other in zip(group, unspaced, strict=True) if not other]
    others = [text for text, other in zip(group, unspaced, strict=True) if other]
    found = [shingles(spaced, ngram)[0] for ngram in ngrams]
    found += [shingles(others, UNSPACED_FACTOR * ngram)[0] for ngram in ngrams]
    return np.unique(np.concatenate(found))


# --- held-out texts --------------------------------------------------------------------------------------------------


def texts(heldout: Folder) -> Iterator[str]:
    """All held-out texts: of a prepared artifact its validation documents and examples, or those of one file.

    Of a JSON line or a row of Parquet each string counts, in whatever field and at whatever depth, so that questions,
    answers and conversations are found under any name. Any other file is one text. Raises InputError.
    """
    if heldout.is_file():
        yield from _file(heldout)
        return
    for name in heldout.files():
        documents = name.startswith("documents/validation-") and name.endswith(".parquet")
        if documents:
            yield from shards.read_table(heldout, name, ("text",)).column("text").to_pylist()
        elif name == "examples/validation.parquet":
            yield from _strings(shards.read_table(heldout, name).to_pylist())


def _file(file: Folder) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fsspec.core import open as open_url

    plain = file.url.removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2").removesuffix(".xz")
    try:
        with open_url(file.url, "rb", compression="infer") as handle:
            if plain.endswith(".parquet"):
                with pq.ParquetFile(handle) as table:
                    for batch in table.iter_batches(batch_size=1024):
                        yield from _strings(batch.to_pylist())
            elif plain.endswith((".jsonl", ".json")):
                for number, line in enumerate(handle, 1):
                    yield from _strings(_json(line, number, file))
            else:
                yield handle.read().decode("utf-8-sig")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(f"data.heldout: {file.url} cannot be read ({str(error).splitlines()[0]}): mend it") from None


def _json(line: bytes, number: int, file: Folder) -> object:
    try:
        return json.loads(line) if line.strip() else None
    except json.JSONDecodeError as error:
        raise InputError(f"data.heldout: line {number} of {file.url} is not JSON ({error.msg}): mend it") from None


def _strings(value: object) -> Iterator[str]:
    """Every string in nested lists and dictionaries; names of fields are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
