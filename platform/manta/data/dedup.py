"""Exact deduplication and the train/validation split, both from one 16-byte digest of a document's text."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

DIGEST_BYTES = 16


def digest(text: str) -> bytes:
    """BLAKE2b (16 bytes) of the text in NFC with every run of white space as one space.

    So documents that differ only in spacing or line breaks count as the same. At 10^9 documents the chance that any
    two different ones collide is about 10^-21.
    """
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(plain.encode(), digest_size=DIGEST_BYTES).digest()


def first_occurrences(digests: Any) -> Any:
    """For each document, the index of the first one with the same digest; its own index means that it is kept.

    `digests`: uint8 (num_documents, 16), in document order. Returns int64 (num_documents,). Needs about 60 bytes of
    memory a document (6 GB for 10^8), whatever the length of the documents.
    """
    import numpy as np

    halves = np.ascontiguousarray(digests).view("<u8")  # (num_documents, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: within a digest, document order
    ordered = halves[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = first
    return found


def is_validation(digests: Any, fraction: float, seed: int) -> Any:
    """Which documents are held out: bool (num_documents,), a pure function of each text, `fraction` and `seed`."""
    return _uniform(digests, 0, seed, "split") < fraction


def sample_rank(digests: Any, seed: int) -> Any:
    """A number in [0, 1) for each document, float64 (num_documents,), by whose order samples are drawn."""
    return _uniform(digests, 1, seed, "sample")


def _uniform(digests: Any, half: int, seed: int, purpose: str) -> Any:
    import numpy as np

    key = np.uint64(int.from_bytes(hashlib.blake2b(f"{purpose} {seed}".encode(), digest_size=8).digest(), "little"))
    bits = np.ascontiguousarray(digests).view("<u8")[:, half] ^ key
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def content_hash(digests: Any) -> str:
    """SHA-256 (hex) over the sorted digests: what a set of documents holds, in whatever order or files."""
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in digests))).hexdigest()
