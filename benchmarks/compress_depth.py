"""Does one-shot int4 cost the same for each block, and hold the same memory, however many blocks there are?

SmolLM2-135M's first 8 and 15 blocks and all 30, each in a process of its own that does nothing else, one thread. Calibration
reads 64 rows of 256 tokens of Python's own help topics. Imports are left out of the memory, and loading is in it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import compress
import harness

from manta import package
from manta.models.load import weight_bytes

BLOCKS = (8, 15, 30)


def main() -> None:
    with harness.bench("compress_depth", __doc__) as bench:
        folder = harness.SCRATCH / "compress_depth"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        source = package.convert(compress.MODEL)
        compress.prepare(source, folder)
        measure(bench, source, folder)


def measure(bench: harness.Bench, source: Path, folder: Path) -> None:
    """Put the cost of a block and the memory into the row, of each number of blocks, and how far they are from constant."""
    bench.settings["compress_depth"] = {"blocks": BLOCKS}
    seconds, held = [], []
    for count in BLOCKS:
        part = folder / f"blocks_{count}"
        shorten(source, part, count)
        run = harness.run_once(compress.ours(part, folder, f"int4_{count}", compress.W4A16))
        if run.error:
            raise RuntimeError(f"{count} blocks: {run.error}")
        seconds.append(run.value("working_cpu_s"))
        held.append(run.value("memory_bytes"))
        size = weight_bytes(part)
        bench.figure(f"cpu_s_{count}", seconds[-1], "CPU s", f"int4 of {count} blocks")
        bench.figure(
            f"memory_mb_{count}", held[-1] / 1e6, "MB", f"peak beyond imports; the bf16 weights: {size / 1e6:.0f}"
        )
        bench.figure(f"memory_{count}", held[-1] / size, "x", "the same over those weights")
        shutil.rmtree(part)
    first, second = ((seconds[n + 1] - seconds[n]) / (BLOCKS[n + 1] - BLOCKS[n]) for n in (0, 1))
    few, some, all_of_them = BLOCKS
    note = f"CPU seconds of each block from {some} to {all_of_them}, over those from {few} to {some}"
    bench.figure("cost_linear", second / first, "x", note)
    bench.figure("memory_of_depth", held[-1] / held[0], "x", f"with {all_of_them} blocks over {few}")


def shorten(source: Path, target: Path, count: int) -> None:
    """Write the model's first `count` blocks, with all that is not in a block, into the new folder `target`."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, "num_hidden_layers": count}), encoding="utf-8")
    kept = {
        name: tensor
        for name, tensor in load_file(source / "model.safetensors").items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < count
    }
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
