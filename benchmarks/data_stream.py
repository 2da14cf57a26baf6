"""How soon do batches come, whatever the corpus's size, does training wait for them, and how random is their order?"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pyarrow as pa
import shuffle

from manta.data import order, shards
from manta.storage import Folder

YARDSTICK = Path(__file__).resolve().parent / "yardsticks" / "first_batch.py"
RECIPES = harness.ROOT / "jobs" / "recipes" / "quickstart"
FEW, MANY = 10**4, 10**8  # samples
SEQ_LEN, SHARD_ROWS, FILES, ROWS = 512, 2048, 4, 8
TOKENS, QUICK_TOKENS = 327_680, 32_768  # of the quickstart's pre-training
SHUFFLED, BATCH = 10**6, 256


def main() -> None:
    with harness.bench("data_stream", __doc__) as bench:
        measure(bench)


def measure(bench: harness.Bench) -> None:
    """Put the figures of the stream into the row."""
    shuffle_quality(bench)
    first_batch(bench)
    data_wait(bench)


# --- the first batch -------------------------------------------------------------------------------------------------


def first_batch(bench: harness.Bench) -> None:
    """From a worker that is ready to its first batch, each time in a Ray that was just started."""
    place = harness.SCRATCH / "stream"
    shutil.rmtree(place, ignore_errors=True)
    few, many = (_simulated(Folder(place / str(samples)), samples) for samples in (FEW, MANY))
    middle = MANY // ROWS // 2
    runs = bench.alternate(
        {
            "few": harness.command([sys.executable, YARDSTICK, few, FEW // ROWS, 0]),
            "many": harness.command([sys.executable, YARDSTICK, many, MANY // ROWS, 0]),
            "middle": harness.command([sys.executable, YARDSTICK, many, MANY // ROWS, middle]),
        },
        repeats=1 if bench.quick else 5,
        label="first batch",
    )
    notes = {
        "few": f"{FEW:,} samples",
        "many": f"{MANY:,} samples in {MANY // SHARD_ROWS:,} shards",
        "middle": f"of {MANY:,} samples, from the middle of the epoch",
    }
    for name, taken in runs.items():
        done = [run for run in taken if not run.error]
        bench.figure(f"first_batch_s_{name}", [run.value("first_batch_s") for run in done], "s", notes[name])
        again = f"{notes[name]}; Ray Data's processes are up"
        bench.figure(f"first_batch_again_s_{name}", [run.value("again_s") for run in done], "s", again)
    bench.ratio("first_batch_growth", runs, of="many", over="few", key="first_batch_s")
    shutil.rmtree(place)


def _simulated(folder: Folder, samples: int) -> str:
    """An artifact of this many rows: a few real files, listed again and again.

    Each entry has a hash of its own, so that the stream takes it for a file of its own and opens it as such.
    """
    rng = np.random.default_rng(0)
    real = []
    for number in range(FILES):
        ids = rng.integers(0, 16_000, SHARD_ROWS * SEQ_LEN).astype(np.int32)
        table = pa.table({"input_ids": pa.FixedSizeListArray.from_arrays(pa.array(ids), SEQ_LEN)})
        path = f"train/{number:05}.parquet"
        size, sha256 = shards.write_table(folder, path, table, row_group_size=shards.ROWS_PER_GROUP)
        real.append(shards.Shard(path, SHARD_ROWS, SHARD_ROWS * SEQ_LEN, size, sha256))
    listed = tuple(replace(real[i % FILES], sha256=f"{i:064x}") for i in range(-(-samples // SHARD_ROWS)))
    shards.save_index(folder, shards.Index(SEQ_LEN, 16_384, 0, None, None, {"train": listed, "validation": ()}))
    return folder.url


# --- waiting for data ------------------------------------------------------------------------------------------------


def data_wait(bench: harness.Bench) -> None:
    """The share of the quickstart's pre-training that its first worker waits for data, by the run's own metrics."""
    place = harness.SCRATCH / "quickstart"
    shutil.rmtree(place, ignore_errors=True)
    few = ["data.sources.0.path=python://stdlib/[a-h]*.py", "data.validation_fraction=0.1"]  # to train on for a while
    prepare = harness.command([*_manta("prepare"), f"output={place}", *(few if bench.quick else [])], timeout=600)
    pretrain = harness.command(
        [*_manta("pretrain"), f"output={place}", f"stop.tokens={QUICK_TOKENS if bench.quick else TOKENS}"], timeout=900
    )
    prepare()

    def run() -> dict[str, Any]:
        shutil.rmtree(place / "base", ignore_errors=True)
        pretrain()
        return _waits(place / "base" / "metrics.jsonl")

    runs = bench.alternate({"pretrain": run}, repeats=1 if bench.quick else 3, label="quickstart")
    done = [found for found in runs["pretrain"] if not found.error]
    bench.figure("data_wait_share", [found.value("share") for found in done], "%", "of all steps after the first")
    bench.figure("data_wait_first_step_s", [found.value("first_s") for found in done], "s", "of the first step")


def _manta(stage: str) -> list[Any]:
    return [sys.executable, "-m", "manta.cli", stage, RECIPES / f"{stage}.yaml"]


def _waits(metrics: Path) -> dict[str, float]:
    lines = [line for line in map(json.loads, metrics.read_text().splitlines()) if line["kind"] == "train"]
    per_step = lines[0]["tokens"]
    seconds = np.array([per_step / line["tokens_per_s"] for line in lines])
    waited = seconds * np.array([line["data_wait_share"] for line in lines])
    return {"share": float(100 * waited[1:].sum() / seconds[1:].sum()), "first_s": float(waited[0])}


# --- the order -------------------------------------------------------------------------------------------------------


def shuffle_quality(bench: harness.Bench) -> None:
    """What tells our order from a random one, beside what tells numpy's permutations from it."""
    index = np.arange(SHUFFLED)
    ours, drawn = [], []
    for seed in range(3 if bench.quick else 20):
        rng = np.random.default_rng(seed)
        both = [order.permute(index, SHUFFLED, seed, epoch) for epoch in (0, 1)]
        ours.append(shuffle.largest(shuffle.deviations(both[0], both[1], BATCH, SHARD_ROWS)))
        both = [rng.permutation(SHUFFLED) for _ in range(2)]
        drawn.append(shuffle.largest(shuffle.deviations(both[0], both[1], BATCH, SHARD_ROWS)))
    bench.figure("shuffle_deviation", ours, "sd", f"largest of six statistics, {SHUFFLED:,} rows, a value a seed")
    bench.figure("shuffle_deviation_of_numpy", drawn, "sd", "the same of numpy's permutations")


if __name__ == "__main__":
    main()
