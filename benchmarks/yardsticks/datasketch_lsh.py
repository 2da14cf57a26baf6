"""datasketch as its users run it: word shingles of every text of FOLDER/work/cleaned, MinHash, an LSH index, one query each.

Same shingles (5 words, lower case, no punctuation), permutations (128) and bands (16 of 8 rows) as Manta's near_dedup.
Signatures are made in batches, which is datasketch's fastest way; the words and shingles are made in Python.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from datasketch import MinHash, MinHashLSH

NGRAM, BANDS, ROWS = 5, 16, 8
WORD = re.compile(r"[^\W_]+")


def shingles(text: str) -> list[bytes]:
    words = WORD.findall(text.lower())
    return list({" ".join(words[i : i + NGRAM]).encode() for i in range(len(words) - NGRAM + 1)})


def main() -> None:
    parts = sorted((Path(sys.argv[1]) / "work" / "cleaned").glob("*.parquet"))
    texts = [text for part in parts for text in pq.read_table(part, columns=["text"]).column("text").to_pylist()]
    wall, cpu = time.perf_counter(), time.process_time()
    lsh = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    pairs = 0
    for number, sketch in _sketches(texts):
        pairs += len(lsh.query(sketch))
        lsh.insert(number, sketch, check_duplication=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = {"documents": len(texts), "cpu_seconds": cpu, "seconds": wall, "pairs": pairs}
    print(json.dumps(figures | {"documents_per_cpu_s": len(texts) / cpu}))


def _sketches(texts: list[str]) -> Iterator[tuple[int, MinHash]]:
    """(number, MinHash) of every text that has a shingle."""
    numbers: list[int] = []

    def sets() -> Iterator[list[bytes]]:
        for number, text in enumerate(texts):
            if found := shingles(text):
                numbers.append(number)
                yield found

    for sketch in MinHash.generator(sets(), num_perm=BANDS * ROWS):
        yield numbers[-1], sketch


if __name__ == "__main__":
    main()
