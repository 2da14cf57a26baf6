"""What do Ray Train, DeepSpeed and the ordered stream cost over a bare PyTorch loop, what does a failure cost, and does
`manta plan` tell the truth?

All competitors train the same Llama from scratch on the same rows with the same batch, in fp32 (bf16 is emulated on
processors without AVX512-BF16 or AMX), on the same number of threads: the bare loop and the Hugging Face Trainer with
DeepSpeed against one worker, the bare loop under DistributedDataParallel against two. Counted is the speed of a step once
it is warm: tokens per second, the median over the steps after the first few. Start-up, validation and saving are left out.
Memory is the peak that the training process itself held, libraries and all. `train_sizes.py` asks the same of a larger model
and of compiled ones.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import corpus
import harness
import plan
import recovery

from manta import cluster, recipe, stage
from manta.progress import Progress

YARDSTICKS = Path(__file__).resolve().parent / "yardsticks"
SEQ_LEN, VOCAB_SIZE, CORES, WARM_STEPS = 256, 8192, 2, 5
# figure -> (competitor, yardstick)
RATIOS = {
    "vs_bare_1": ("manta", "bare"),
    "vs_hf_trainer": ("manta", "hf_trainer"),
    "vs_bare_ddp_2": ("manta_2", "bare_ddp_2"),
    "vs_bare_compiled_1": ("manta_compiled", "bare_compiled"),
}
MEMORY = {"memory_vs_bare_1": ("manta", "bare"), "memory_vs_hf_trainer": ("manta", "hf_trainer")}


class Shape(NamedTuple):
    """A model, the rows of its global batch, the steps of a run, and how often each competitor runs."""

    preset: str
    rows: int
    steps: int
    repeats: int


QUICK, FULL = Shape("llama-7m", 8, 14, 2), Shape("llama-7m", 8, 60, 5)
# The competitors of this file; `train_sizes.py` chooses others.
COMPETITORS = ("manta", "bare", "hf_trainer", "manta_2", "bare_ddp_2")


def main() -> None:
    with harness.bench("train", __doc__) as bench:
        shards = prepared(bench)
        try:
            speed(bench, shards, QUICK if bench.quick else FULL, COMPETITORS)
            recovery.measure(bench)
        finally:
            cluster.disconnect()
        plan.measure(bench)


def prepared(bench: harness.Bench) -> Path:
    """The rows that all competitors train on."""
    bench.settings.update(seq_len=SEQ_LEN, vocab_size=VOCAB_SIZE, cores=CORES, zero_stage=0, precision="fp32")
    bench.say("train: preparing shards (not measured)")
    shutil.rmtree(harness.SCRATCH / "train", ignore_errors=True)
    return _shards()


def speed(bench: harness.Bench, shards: Path, shape: Shape, names: Sequence[str], suffix: str = "") -> None:
    """A step of these competitors, each run next to its neighbour. The figures' names end in `suffix`."""

    def yardstick(name: str, *more: Any) -> harness.Command:
        words = [sys.executable, YARDSTICKS / f"{name}.py", shards, shape.preset, shape.steps, shape.rows, CORES, *more]
        return harness.command(words, timeout=900)

    known: dict[str, Any] = {
        "manta": lambda: _manta(shards, shape, workers=1),
        "bare": yardstick("bare_loop"),
        "hf_trainer": yardstick("hf_trainer"),
        "manta_2": lambda: _manta(shards, shape, workers=CORES),
        "bare_ddp_2": yardstick("bare_ddp"),
        "manta_compiled": lambda: _manta(shards, shape, workers=1, compiled=True),
        "bare_compiled": yardstick("bare_loop", "compile"),
    }
    bench.settings[f"shape{suffix}"] = shape._asdict()
    runs = bench.alternate({name: known[name] for name in names}, repeats=shape.repeats, label=shape.preset)
    for key, table in (("tokens_per_s", RATIOS), ("peak_mib", MEMORY)):
        for figure, (of, over) in table.items():
            if of in runs and over in runs:
                bench.ratio(figure + suffix, runs, of=of, over=over, key=key)
    for name, taken in runs.items():
        done = [run for run in taken if not run.error]
        bench.figure(f"{name}_tokens_per_s{suffix}", [run.value("tokens_per_s") for run in done], unit="tok/s")
        if name != "hf_trainer":  # which reports the mean of all steps instead
            bench.figure(f"{name}_last_loss{suffix}", [run.value("loss") for run in done], unit="nats")
        if name.startswith("manta"):
            waits = [run.value("data_wait_share") for run in done]
            bench.figure(f"{name}_data_wait_share{suffix}", waits)


def _shards() -> Path:
    """Rows of real text, made by Manta itself."""
    output = harness.SCRATCH / "train"
    data = {"sources": [{"path": f"{corpus.english(8)}/*.jsonl", "format": "jsonl"}], "seq_len": SEQ_LEN}
    data["layout"] = {"kind": "concat", "isolate": False}  # as the yardsticks train: rows without regard to documents
    wanted = {
        "kind": "prepare",
        "name": "shards",
        "output": str(output),
        "data": data,
        "tokenizer": {"vocab_size": VOCAB_SIZE},
    }
    made = stage.run(_validated(wanted), Progress(quiet=True))
    return Path(made.artifact.folder.url)


def _manta(shards: Path, shape: Shape, workers: int, compiled: bool = False) -> dict[str, Any]:
    """A pre-training run through the front door; its figures are those of its own metrics file."""
    output = shards.parent / "runs"
    shutil.rmtree(output, ignore_errors=True)
    wanted = {
        "kind": "pretrain",
        "name": "base",
        "output": str(output),
        "data": {"shards": str(shards)},
        "model": {"preset": shape.preset},
        "optimizer": {"precision": "fp32", "lr": 1.0e-3},
        "schedule": {"name": "constant", "warmup_fraction": 0.0},
        "batch": {"samples": shape.rows},
        "stop": {"steps": shape.steps},
        "checkpoint": {"every_steps": 10**6},
        "evaluate": {"every_steps": 10**6, "max_rows": 1},
        "resources": {
            "workers": workers,
            "cpus_per_worker": CORES // workers,
            "micro_batch": shape.rows // workers,
            "zero_stage": 0,
            "compile": compiled,
        },
    }
    made = stage.run(_validated(wanted), Progress(quiet=True))
    path = Path(made.artifact.folder.url) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    warm = [line for line in lines if line["kind"] == "train"][WARM_STEPS:]
    return {
        "tokens_per_s": statistics.median(line["tokens_per_s"] for line in warm),
        "data_wait_share": statistics.median(line["data_wait_share"] for line in warm),
        "loss": warm[-1]["loss"],
        "peak_mib": max(line["rss_peak"] for line in lines if line["kind"] == "memory") / 2**20,
    }


def _validated(raw: dict[str, Any]) -> Any:
    return recipe.validate(raw, origin="benchmarks/train.py")


if __name__ == "__main__":
    main()
