"""Removes lines and paragraphs that many documents share: hashes are counted over all of them, then taken out of each."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.data import exchange
from manta.data.spread import Item
from manta.sections.prepare import LineDedup
from manta.storage import Folder

if TYPE_CHECKING:  # the corpus is made by tasks that use `remover`
    from manta.data.corpus import Context, Corpus

# What stands between units. It is kept with the unit before it.
SEPARATOR = {"line": re.compile("(\n)"), "paragraph": re.compile(r"(\n(?:[^\S\n]*\n)+)")}


def line_dedup(corpus: Corpus, step: LineDedup, context: Context) -> Corpus:
    """Find the lines (or paragraphs) that stand in more than `step.max_documents` documents.

    The next phase removes them from every document, the first one included: what so many pages say is said by none of
    them. However often a line stands in one document, that document counts once.
    """
    chars = int(corpus.chars[corpus.kept].sum())
    partitions = exchange.num_partitions(chars // max(step.min_chars, 16))
    parts = exchange.part_items(corpus, context, partitions, unit=step.unit, min_chars=step.min_chars)
    exchange.run(count, parts, context, f"parts with {step.unit}s counted")
    items = exchange.partition_items(parts, context, partitions, max_documents=step.max_documents)
    found = exchange.run(select, items, context, f"partitions of {step.unit}s compared")
    # Partitions are ranges of hashes in ascending order: one after the other they are sorted.
    hashes = np.concatenate([exchange.read_hashes(context.folder, path)[0] for path in found])
    context.progress.note(f"line_dedup: {len(hashes):,} {step.unit}s stand in more than {step.max_documents} documents")
    if not len(hashes):
        return corpus
    path = f"work/corpus/{context.name}/remove.parquet"
    exchange.write_hashes(context.folder, path, hashes, unit=step.unit)
    return replace(corpus, remove=path)


def count(item: Item) -> Item:
    """Write a part's (line hash, number of documents) pairs. `item`: as `exchange.part_items` makes it, unit, min_chars."""
    found = [np.unique(hashed(text, item["unit"], item["min_chars"])[0]) for text in exchange.texts(item)]
    return exchange.write_pairs(item, *np.unique(np.concatenate(found), return_counts=True))


def select(item: Item) -> Item:
    """Write the hashes of a partition that stand in more than `max_documents` documents, sorted."""
    hashes, counts = exchange.read_pairs(item)
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
    often = np.add.reduceat(counts, starts) > item["max_documents"] if len(starts) else np.zeros(0, dtype=bool)
    exchange.write_hashes(Folder(item["folder"]), item["output"], hashes[starts][often])
    return {}


def hashed(text: str, unit: str, min_chars: int = 0) -> tuple[Any, Any]:
    """Hashes of a text's units, uint64 (num_found,), and which units these are, int64 (num_found,).

    A hash is BLAKE2b (8 bytes) of the unit in NFC, in folded case, without space around it. Empty units and those
    shorter than `min_chars` in this form have none.
    """
    plain = unicodedata.normalize("NFC", text).casefold()
    keys = [key.strip() for key in SEPARATOR[unit].split(plain)[::2]]
    found = [number for number, key in enumerate(keys) if key and len(key) >= min_chars]
    digests = (hashlib.blake2b(keys[number].encode(), digest_size=8).digest() for number in found)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64), np.array(found, dtype=np.int64)


def remover(folder: Folder, path: str) -> Callable[[str], str]:
    """A function that takes the lines (or paragraphs) out of a text whose hashes `path` holds, wherever they stand.

    A text that has none of them stays as it is. Holds at most 40 bytes a hash in memory.
    """
    hashes, facts = exchange.read_hashes(folder, path)
    known, unit = exchange.Known(hashes), facts["unit"]

    def remove(text: str) -> str:
        hashes, where = hashed(text, unit)
        gone = where[known.holds(hashes)]
        if not len(gone):
            return text
        pieces = SEPARATOR[unit].split(text)
        for number in gone.tolist():
            pieces[2 * number : 2 * number + 2] = [""] * len(pieces[2 * number : 2 * number + 2])
        return "".join(pieces).strip("\n")

    return remove
