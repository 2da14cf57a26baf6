"""datatrove's own tokenisation, as its users run it: every text of FOLDER/work/cleaned into token files below TARGET."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.utils.logging import logger


def main() -> None:
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    logger.remove()
    shutil.rmtree(target, ignore_errors=True)
    parts = sorted((folder / "work" / "cleaned").glob("*.parquet"))
    texts = [text for part in parts for text in pq.read_table(part, columns=["text"]).column("text").to_pylist()]

    def documents() -> Iterator[Document]:
        for number, text in enumerate(texts):
            yield Document(text=text, id=str(number))

    step = DocumentTokenizer(
        output_folder=str(target),
        tokenizer_name_or_path=str(folder / "tokenizer/tokenizer.json"),
        eos_token="<|endoftext|>",
    )
    wall, cpu = time.perf_counter(), time.process_time()
    step.run(documents(), rank=0, world_size=1)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Two bytes a token, one token more a document.
    tokens = sum(path.stat().st_size for path in target.glob("*.ds")) // 2 - len(texts)
    print(json.dumps({"tokens": tokens, "tokens_per_cpu_s": tokens / cpu, "tokens_per_s": tokens / wall}))


if __name__ == "__main__":
    main()
