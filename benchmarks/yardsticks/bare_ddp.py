"""The plain loop on several processes with DistributedDataParallel over gloo: SHARDS PRESET STEPS ROWS WORKERS."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from bare_loop import WARM_STEPS, fresh_model, train, training_rows
from torch import multiprocessing


def rank_of(rank: int, store: str, folder: str, preset: str, steps: int, rows: int, workers: int) -> None:
    """One process, one thread; rank 0 prints. The rows of a step are dealt out to the ranks."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    model = torch.nn.parallel.DistributedDataParallel(fresh_model(Path(folder), preset))
    data = training_rows(Path(folder), steps * rows)[rank::workers]
    seconds, loss = train(model, data, rows // workers, steps)
    if rank == 0:
        speed = rows * data.shape[1] / statistics.median(seconds[WARM_STEPS:])
        print(json.dumps({"tokens_per_s": speed, "loss": loss}))
    torch.distributed.destroy_process_group()


def main() -> None:
    folder, preset = sys.argv[1:3]
    steps, rows, workers = map(int, sys.argv[3:6])
    with tempfile.TemporaryDirectory() as scratch:
        multiprocessing.spawn(rank_of, (f"{scratch}/store", folder, preset, steps, rows, workers), nprocs=workers)


if __name__ == "__main__":
    main()
