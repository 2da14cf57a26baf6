"""What `data.py` measures besides tokenising: cleaning against datatrove, near-duplicates against datasketch and theory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
from pydantic import TypeAdapter

from manta.data import cleaning, corpus, exchange, minhash, neardup
from manta.progress import Progress
from manta.sections.prepare import NearDedup, Step
from manta.storage import Folder

YARDSTICKS = Path(__file__).resolve().parent / "yardsticks"
FILTERS = ("gopher_repetition", "c4_quality", "fineweb_quality")
BATCH = 256
SIMILARITIES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PAIRS = 2000


def clean(bench: harness.Bench, folder: Folder, texts: list[str], repeats: int) -> None:
    """The same rules on the same documents: CPU time, and how often both decide alike.

    Gopher's quality rules are left out: they drop nine tenths of technical text at once, in both, which then says little.
    """
    place = Path(folder.url) / "clean"
    place.mkdir()
    documents, flags = place / "documents.jsonl", place / "flags.json"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    steps = TypeAdapter(list[Step]).validate_python([{"step": name} for name in FILTERS])
    ours: list[str | None] = []

    def manta() -> dict[str, Any]:
        ours.clear()
        started = time.process_time()
        for begin in range(0, len(texts), BATCH):
            batch = texts[begin : begin + BATCH]
            ours.extend(cleaning.apply(cleaning.Batch(batch, ["en"] * len(batch)), steps).reasons)
        spent = time.process_time() - started
        return {"documents_per_cpu_s": len(texts) / spent, "kept": ours.count(None)}

    def datatrove() -> dict[str, Any]:
        command = [sys.executable, YARDSTICKS / "datatrove_filters.py", documents, flags, *FILTERS]
        found = harness.command(command, timeout=900)()
        return {"documents_per_cpu_s": found["documents"] / found["cpu_s"], "kept": found["kept"]}

    runs = bench.alternate({"manta": manta, "datatrove": datatrove}, repeats=repeats, label="clean")
    bench.ratio("clean_vs_datatrove", runs, of="manta", over="datatrove", key="documents_per_cpu_s")
    theirs = json.loads(flags.read_text())
    same = sum((a is None) == (b is None) for a, b in zip(ours, theirs, strict=True))
    bench.figure("clean_agreement", 100 * same / len(theirs), "%", f"same decision on {len(theirs):,} documents")


def near_duplicates(bench: harness.Bench, folder: Folder, parts: list[str], repeats: int) -> None:
    """The whole step, files included, on one core against datasketch in memory; and recall against the formula."""
    settings = NearDedup(step="near_dedup")
    everything = corpus.gather(folder, parts)

    def manta() -> dict[str, Any]:
        context = corpus.Context(folder, f"bench-{time.monotonic_ns()}", 1, "none", Progress(quiet=True))
        started = time.process_time()
        items, partitions = neardup.items(everything, settings, context)
        for item in items:
            neardup.sign(item)
        for item in exchange.partition_items(items, context, partitions):
            neardup.link(item)
        return {"documents_per_cpu_s": everything.num_kept / (time.process_time() - started)}

    datasketch = harness.command([sys.executable, YARDSTICKS / "datasketch_lsh.py", folder.url], timeout=900)
    manta()  # its libraries are loaded when the clock starts, as datasketch's are
    runs = bench.alternate({"manta": manta, "datasketch": datasketch}, repeats=repeats, label="near-duplicates")
    bench.ratio("dedup_vs_datasketch", runs, of="manta", over="datasketch", key="documents_per_cpu_s")
    errors = [abs(recall(j, settings) - (1 - (1 - j**settings.rows) ** settings.bands)) for j in SIMILARITIES]
    bench.figure(
        "dedup_recall_error",
        100 * max(errors),
        "points",
        f"largest of {len(errors)} similarities, {PAIRS:,} pairs each, against 1-(1-J^r)^b",
    )


def recall(similarity: float, settings: NearDedup) -> float:
    """The share of pairs of shingle sets of this Jaccard similarity that meet in a band."""
    rng = np.random.default_rng(int(similarity * 100))
    size = 400  # of the union; both sets have the shared part and half of the rest each
    shared = round(similarity * size)
    alone = (size - shared) // 2
    drawn = rng.integers(0, 2**63, size=(PAIRS, shared + 2 * alone), dtype=np.uint64)
    one, other = drawn[:, : shared + alone], np.concatenate([drawn[:, :shared], drawn[:, shared + alone :]], axis=1)
    sets = np.stack([one, other], axis=1).reshape(2 * PAIRS, -1)
    offsets = np.arange(2 * PAIRS + 1, dtype=np.int64) * sets.shape[1]
    bands, _ = minhash.band_hashes(sets.reshape(-1), offsets, settings.bands, settings.rows)
    met = (bands[::2] == bands[1::2]).any(axis=1)
    return float(met.mean())
