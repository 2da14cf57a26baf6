"""How close does preparing text come to the speed of the tokenizer alone, and how does each step compare?

All competitors tokenise the same documents with the same vocabulary. Manta, `datasets` and datatrove also write what they
made; tiktoken only encodes. Counted are tokens per second of CPU time, of all processes, without imports, without the
start of Ray and without Ray Data's first use, in which its worker processes start (both given beside it). Needs the
extra `bench`: make env EXTRAS=bench.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import corpus
import data_scale
import data_steps
import data_stream
import harness

from manta import cluster
from manta.data import packing, shards, sources, tokenizer, work
from manta.data.spread import spread
from manta.sections.prepare import Source
from manta.storage import Folder

VOCAB_SIZE, SEQ_LEN, SHARD_TOKENS, TRAIN_CHARS = 16_384, 512, 1_048_576, 5_000_000
YARDSTICKS = Path(__file__).resolve().parent / "yardsticks"
CORES = 2


def main() -> None:
    with harness.bench("data", __doc__) as bench:
        megabytes = 36 if bench.quick else 70
        folder = Folder(harness.SCRATCH / "data")
        shutil.rmtree(harness.SCRATCH / "data", ignore_errors=True)
        bench.say("data: gathering text and training a tokenizer (not measured)")
        parts = _cleaned(folder, corpus.english(megabytes))
        texts = [text for part in parts for text in shards.read_table(folder, part["path"]).column("text").to_pylist()]
        _train(folder, texts)
        num_bytes = sum(len(text.encode()) for text in texts)
        bench.settings.update(
            megabytes=round(num_bytes / 1e6), documents=len(texts), vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN
        )

        with harness.measure() as start:
            cluster.connect(minimum_cpus=CORES)
        bench.figure("ray_start_cpu_s", start.cpu_s, unit="s", note="not part of the ratios")
        items = _items(folder, parts, [len(text) for text in texts])
        repeats = 2 if bench.quick else 7
        try:
            with harness.measure() as first:
                list(spread(_nothing, [{}] * CORES, CORES))
            bench.figure("ray_data_first_use_cpu_s", first.cpu_s, unit="s", note="not part of the ratios")
            runs = bench.alternate(
                {
                    "manta": lambda: _manta(items),
                    "tiktoken": _yardstick("raw_tiktoken.py", folder),
                    "datasets": _yardstick("datasets_map.py", folder, folder.url + "/datasets"),
                    "datatrove": _yardstick("datatrove_tokens.py", folder, folder.url + "/datatrove"),
                },
                repeats=repeats,
                warmup=0 if bench.quick else 1,
            )
        finally:
            cluster.disconnect()
        key = "tokens_per_cpu_s"
        bench.ratio("tokenize_vs_tiktoken", runs, of="manta", over="tiktoken", key=key)
        bench.ratio("tokenize_vs_datasets_map", runs, of="manta", over="datasets", key=key)
        bench.ratio("tokenize_vs_datatrove", runs, of="manta", over="datatrove", key=key)
        for name, taken in runs.items():
            bench.figure(f"{name}_tokens_per_cpu_s", [run.value(key) for run in taken if not run.error], unit="tok/s")
        data_steps.clean(bench, folder, texts[: 1000 if bench.quick else 5000], repeats)
        data_steps.near_duplicates(bench, folder, [part["path"] for part in parts], repeats)
        data_stream.measure(bench)
        data_scale.measure(bench, megabytes=10 if bench.quick else 70, repeats=1 if bench.quick else 2)


def _nothing(_: dict[str, Any]) -> dict[str, Any]:
    return {}


def _cleaned(folder: Folder, texts: Path) -> list[dict[str, Any]]:
    """The documents as `prepare` holds them between cleaning and packing: its parts, each {path, documents}."""
    source = Source(path=f"{texts}/*.jsonl", format="jsonl")
    settings = {
        "sources": [source.model_dump()],
        "steps": [{"step": "normalise"}],
        "remove": None,
        "keep_dropped": "none",
    }
    groups = sources.grouped(sources.list_files([source]))
    made = [
        work.clean_unit(
            {
                "folder": folder.url,
                "phase": 0,
                "number": number,
                "files": [file.as_json() for file in files],
                **settings,
            }
        )
        for number, files in enumerate(groups)
    ]
    return [part for summary in made for part in summary["parts"]]


def _train(folder: Folder, texts: list[str]) -> None:
    """A tokenizer of the texts' own words."""
    chosen, chars = [], 0
    for text in texts[:: max(1, sum(map(len, texts)) // TRAIN_CHARS)]:
        chosen.append(text)
        chars += len(text)
    with folder.staged("tokenizer") as place:
        tokenizer.train(iter(chosen), VOCAB_SIZE, place)


def _items(folder: Folder, parts: list[dict[str, Any]], sizes: list[int]) -> list[dict[str, Any]]:
    """The tasks that `prepare` would make of the documents."""
    engine = next(iter(tokenizer.encoders(folder.read_text("tokenizer/tokenizer.json"))))
    places = [(part["path"], row) for part in parts for row in range(part["documents"])]
    items = []
    for number, (start, end) in enumerate(packing.ranges(sizes, SHARD_TOKENS * 4.0)):
        pieces: dict[str, list[int]] = {}
        for path, row in places[start:end]:
            pieces.setdefault(path, []).append(row)
        items.append(
            {"folder": folder.url, "split": "train", "number": number, "pieces": list(pieces.items()),
             "engine": engine, "seq_len": SEQ_LEN, "layout": {"kind": "concat"}, "seed": 0, "examples": "none", "source": ""}
        )  # fmt: skip
    return items


def _manta(items: list[dict[str, Any]]) -> dict[str, Any]:
    with harness.measure() as window:
        done = list(spread(work.pack_range, items, CORES))
    tokens = sum(summary["tokens"] - summary["documents"] for summary in done)  # without the end-of-text tokens
    return {"tokens": tokens, "tokens_per_cpu_s": tokens / window.cpu_s, "tokens_per_s": tokens / window.wall_s}


def _yardstick(script: str, folder: Folder, *more: str) -> harness.Command:
    return harness.command([sys.executable, YARDSTICKS / script, folder.url, *more], timeout=900)


if __name__ == "__main__":
    main()
