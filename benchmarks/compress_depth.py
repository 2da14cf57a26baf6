"""Does one-shot int4 cost the same for each block, and hold the same memory, however many blocks there are?

SmolLM2-135M's first 4, 8 and 16 blocks, each in a process of its own that does nothing else, one thread.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import compress
import harness

from manta import package
from manta.models.load import weight_bytes

BLOCKS = (4, 8, 16)


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
        run = harness.run_once(compress.ours(part, folder, f"blocks_{count}_w4a16", compress.W4A16))
        if run.error:
            raise RuntimeError(f"{count} blocks: {run.error}")
        seconds.append(run.value("working_cpu_s"))
        held.append(run.value("memory_bytes"))
        bench.figure(f"depth_{count}_cpu_s", seconds[-1], "CPU s", f"int4 of {count} blocks, {weight_bytes(part)} bytes")
        bench.figure(f"depth_{count}_memory", held[-1] / 2**20, "MiB", "peak beyond imports")
        shutil.rmtree(part)
    first, second = ((seconds[n + 1] - seconds[n]) / (BLOCKS[n + 1] - BLOCKS[n]) for n in (0, 1))
    note = "a further block's CPU seconds: the later ones' over the first ones'"
    bench.figure("cost_linear", second / first, "x", note)
    bench.figure("memory_of_depth", held[-1] / held[0], "x", f"memory with {BLOCKS[-1]} blocks over that with {BLOCKS[0]}")


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
