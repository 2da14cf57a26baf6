"""What do Ray Train, DeepSpeed and the ordered stream cost over a bare PyTorch loop on one worker?

All competitors train the same Llama from scratch on the same rows with the same batch, in fp32 (bf16 is emulated on
processors without AVX512-BF16 or AMX), on the same number of threads. Counted is the speed of a step once it is warm: tokens per second, the median over the steps after the first few. Start-up,
validation and saving are left out.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import corpus
import harness

from manta import cluster, recipe, stage
from manta.progress import Progress

YARDSTICKS = Path(__file__).resolve().parent / "yardsticks"
PRESET, ROWS, SEQ_LEN, VOCAB_SIZE, THREADS, WARM_STEPS = "llama-7m", 8, 256, 8192, 2, 5


def main() -> None:
    with harness.bench("train", __doc__) as bench:
        steps = 20 if bench.quick else 120
        bench.settings.update(
            preset=PRESET,
            rows=ROWS,
            seq_len=SEQ_LEN,
            vocab_size=VOCAB_SIZE,
            threads=THREADS,
            steps=steps,
            zero_stage=0,
            precision="fp32",
        )
        bench.say("train: preparing shards (not measured)")
        shutil.rmtree(harness.SCRATCH / "train", ignore_errors=True)
        shards = _shards()
        words = [shards, PRESET, steps, ROWS, THREADS]
        try:
            runs = bench.alternate(
                {
                    "manta": lambda: _manta(shards, steps),
                    "bare": harness.command([sys.executable, YARDSTICKS / "bare_loop.py", *words], timeout=600),
                    "hf_trainer": harness.command([sys.executable, YARDSTICKS / "hf_trainer.py", *words], timeout=600),
                },
                repeats=3 if bench.quick else 7,
            )
        finally:
            cluster.disconnect()
        for name in ("bare", "hf_trainer"):
            bench.ratio(f"vs_{name}{'_1' if name == 'bare' else ''}", runs, of="manta", over=name, key="tokens_per_s")
        for name, taken in runs.items():
            done = [run for run in taken if not run.error]
            bench.figure(f"{name}_tokens_per_s", [run.value("tokens_per_s") for run in done], unit="tok/s")
            if name != "hf_trainer":  # which reports the mean of all steps instead
                bench.figure(f"{name}_last_loss", [run.value("loss") for run in done], unit="nats")
        bench.figure("manta_data_wait_share", [run.value("data_wait_share") for run in runs["manta"] if not run.error])


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


def _manta(shards: Path, steps: int) -> dict[str, Any]:
    """A pre-training run through the front door; its figures are those of its own metrics file."""
    output = shards.parent / "runs"
    shutil.rmtree(output, ignore_errors=True)
    wanted = {
        "kind": "pretrain",
        "name": "base",
        "output": str(output),
        "data": {"shards": str(shards)},
        "model": {"preset": PRESET},
        "optimizer": {"precision": "fp32", "lr": 1.0e-3},
        "schedule": {"name": "constant", "warmup_fraction": 0.0},
        "batch": {"samples": ROWS},
        "stop": {"steps": steps},
        "checkpoint": {"every_steps": 10**6},
        "evaluate": {"every_steps": 10**6, "max_rows": 1},
        "resources": {"workers": 1, "cpus_per_worker": THREADS, "micro_batch": ROWS, "zero_stage": 0},
    }
    made = stage.run(_validated(wanted), Progress(quiet=True))
    path = Path(made.artifact.folder.url) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    warm = [line for line in lines if line["kind"] == "train"][WARM_STEPS:]
    return {
        "tokens_per_s": statistics.median(line["tokens_per_s"] for line in warm),
        "data_wait_share": statistics.median(line["data_wait_share"] for line in warm),
        "loss": warm[-1]["loss"],
    }


def _validated(raw: dict[str, Any]) -> Any:
    return recipe.validate(raw, origin="benchmarks/train.py")


if __name__ == "__main__":
    main()
