"""What do checkpoints cost while training runs, and how much is lost when a worker is killed?

A Llama trains from scratch through the front door on two workers (AdamW, fp32, ZeRO 1); at a step that is no checkpoint one
of them gets kill -9. Times are read off the lines of metrics.jsonl as they come.
"""

from __future__ import annotations

import json
import shutil
import statistics
import threading
import time
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import corpus
import harness

from manta import cluster, recipe, stage
from manta.progress import Progress
from manta.train import drill

PRESET, SEQ_LEN, VOCAB_SIZE, WORKERS, MICRO_BATCH = "llama-7m", 256, 8192, 2, 2
CHECKPOINT_EVERY_S, KILL_EVERY_S = 60.0, 600.0
LOOK_S = 0.01


def main() -> None:
    with harness.bench("recovery", __doc__) as bench:
        try:
            measure(bench)
        finally:
            cluster.disconnect()


def measure(bench: harness.Bench) -> None:
    """Put the figures of checkpoints and of recovery into the row."""
    steps, every = (32, 8) if bench.quick else (96, 16)
    bench.settings["recovery"] = {
        "preset": PRESET,
        "seq_len": SEQ_LEN,
        "vocab_size": VOCAB_SIZE,
        "workers": WORKERS,
        "rows": WORKERS * MICRO_BATCH,
        "steps": steps,
        "every_steps": every,
        "zero_stage": 1,
        "precision": "fp32",
    }
    shards = _shards()
    kill = steps // 2 + every // 2
    runs = bench.alternate(
        {"killed": lambda: _killed(shards, steps, every, kill)}, repeats=1 if bench.quick else 5, label="recovery"
    )
    done = [run for run in runs["killed"] if not run.error]
    stalls = [run.value("stall_s") for run in done]
    bench.figure("checkpoint_stall_s", stalls, "s", "training stands still for one checkpoint, median of a run")
    shares = [stall / CHECKPOINT_EVERY_S for stall in stalls]
    bench.figure("checkpoint_stall_share", shares, "", f"stall / {CHECKPOINT_EVERY_S:g} s: at one checkpoint a minute")
    bench.figure(
        "checkpoint_write_s", [run.value("write_s") for run in done], "s", "in the background, median of a run"
    )
    bench.figure("checkpoint_mb", [run.value("bytes") / 1e6 for run in done], "MB", "10^6 bytes, both workers")
    note = "kill -9 to the first new step, less the start of the process that takes over (Ray, imports, model, engine)"
    bench.figure("resume_seconds", [run.value("resume_s") for run in done], "s", note)
    bench.figure("recovery_seconds", [run.value("recovery_s") for run in done], "s", "kill -9 to the first new step")
    bench.figure("lost_seconds", [run.value("lost_s") for run in done], "s", "kill -9 to the end of the step it hit")
    shares = [1.0 - run.value("lost_s") / KILL_EVERY_S for run in done]
    bench.figure("goodput", shares, "", f"1 - lost_seconds / {KILL_EVERY_S:g} s: at one kill in ten minutes")


def _shards() -> Path:
    output = harness.SCRATCH / "recovery"
    shutil.rmtree(output, ignore_errors=True)
    wanted = {
        "kind": "prepare",
        "name": "shards",
        "output": str(output),
        "data": {"sources": [{"path": f"{corpus.english(8)}/00.jsonl", "format": "jsonl"}], "seq_len": SEQ_LEN},
        "tokenizer": {"vocab_size": VOCAB_SIZE},
    }
    return Path(stage.run(_validated(wanted), Progress(quiet=True)).artifact.folder.url)


def _killed(shards: Path, steps: int, every: int, kill: int) -> dict[str, Any]:
    output = shards.parent / "runs"
    shutil.rmtree(output, ignore_errors=True)
    wanted = {
        "kind": "pretrain",
        "name": "base",
        "output": str(output),
        "data": {"shards": str(shards)},
        "model": {"preset": PRESET},
        "optimizer": {"precision": "fp32", "lr": 1.0e-3},
        "batch": {"samples": WORKERS * MICRO_BATCH},
        "stop": {"steps": steps},
        "checkpoint": {"every_steps": every},
        "evaluate": {"every_steps": 10**6, "max_rows": 1},
        "resources": {"workers": WORKERS, "micro_batch": MICRO_BATCH, "zero_stage": 1},
    }
    seen = _Follower(output / "base" / "metrics.jsonl", kill)
    with seen:
        stage.run(_validated(wanted), Progress(quiet=True))
    lines = [json.loads(line) for line in seen.path.read_text().splitlines()]
    saved = [line for line in lines if line["kind"] == "checkpoint"]
    return seen.figures() | {
        name: statistics.median(line[name] for line in saved) for name in ("stall_s", "write_s", "bytes")
    }


@dataclass
class _Follower:
    """Reads a run's metrics as they come, notes when each line came, and kills a worker after the step `kill`."""

    path: Path
    kill: int
    came: list[tuple[float, dict[str, Any]]] = field(default_factory=list)  # (seconds since 1970, line)
    killed: tuple[float, int] | None = None  # when, and the step that was trained by then
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._follow, name="bench-follower", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        seen: list[bytes] = []
        while not self._over.wait(LOOK_S):
            if not self.path.exists():
                continue
            lines = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            # The next worker group cuts off what it will train again: new is what comes after the lines in common.
            known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(seen, lines, strict=False)))
            self.came += [(time.time(), json.loads(line)) for line in lines[known:]]
            seen = lines
            trained = [line["step"] for _, line in self.came if line["kind"] == "train"]
            if self.killed is None and trained and trained[-1] >= self.kill:
                victim = drill.workers()[-1]
                self.killed = time.time(), trained[-1]
                victim.kill()

    def figures(self) -> dict[str, float]:
        """Seconds from the kill to the first new step, the same less the process's start, and to where the kill hit."""
        assert self.killed is not None, "the run was over before the kill"
        at, step = self.killed
        after = [(when - at, line) for when, line in self.came if when > at]
        ready, start = next((when, line) for when, line in after if line["kind"] == "start")
        steps = [(when, line["step"]) for when, line in after if when > ready and line["kind"] == "train"]
        created = ready - start["load_s"] - start["build_s"] - start["process_s"]
        process = start["build_s"] + (start["process_s"] if created > 0 else 0.0)  # else Ray had it in stock
        recovery = steps[0][0]
        lost = next(when for when, found in steps if found >= step)
        return {"recovery_s": recovery, "resume_s": recovery - process, "lost_s": lost, "resumed_from": start["step"]}


def _validated(raw: dict[str, Any]) -> Any:
    return recipe.validate(raw, origin="benchmarks/recovery.py")


if __name__ == "__main__":
    main()
