"""How long a worker that is ready waits for its first batch, in a fresh Ray and again: FOLDER STEPS START."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray

from manta import cluster
from manta.data import stream
from manta.data.shards import load_index

ROWS = 8  # of a batch
CORES = 2


class Worker:
    """As one of Ray Train's: it holds a core, and has loaded what reads batches before it asks for any."""

    def first_batch(self, part: stream.Part) -> int:
        steps = stream.batches(part, part.feed.columns)
        step, found = next(steps)
        assert found["input_ids"].shape == (ROWS, part.seq_len)
        steps.close()
        return step


def seconds(part: stream.Part) -> float:
    worker: Any = ray.remote(num_cpus=1)(Worker).remote()
    ray.get(worker.__ray_ready__.remote())
    started = time.monotonic()
    assert ray.get(worker.first_batch.remote(part)) == part.start
    taken = time.monotonic() - started
    ray.kill(worker)
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        time.sleep(0.1)  # what was being read ahead for it ends
    return taken


def main() -> None:
    folder, steps, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    part = stream.Part(stream.Feed(folder, ("input_ids",), ROWS, steps, 0), start, 0, 1, load_index(folder).seq_len)
    cluster.connect(minimum_cpus=CORES)
    try:
        print(json.dumps({"first_batch_s": seconds(part), "again_s": seconds(part)}))
    finally:
        cluster.disconnect()


if __name__ == "__main__":
    main()
