"""tiktoken alone: encode every text of FOLDER/work/cleaned with the vocabulary of FOLDER/tokenizer, on one thread."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from manta.data import tokenizer


def main() -> None:
    folder = Path(sys.argv[1])
    parts = sorted((folder / "work" / "cleaned").glob("*.parquet"))
    texts = [text for part in parts for text in pq.read_table(part, columns=["text"]).column("text").to_pylist()]
    encode = tokenizer.encoders((folder / "tokenizer" / "tokenizer.json").read_text())["tiktoken"]
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = sum(len(encode(text)) for text in texts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"tokens": tokens, "tokens_per_cpu_s": tokens / cpu, "tokens_per_s": tokens / wall}))


if __name__ == "__main__":
    main()
