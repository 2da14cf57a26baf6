"""What Ray Train hands each worker: its rows of every stream, and the order in which their steps come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train

from manta.data import stream
from manta.data.stream import Feed, Part
from manta.mix import Order


@dataclass(frozen=True)
class Parts:
    """One rank's parts of all streams, from a step of the run on. Plain values: they travel to the rank's worker."""

    order: Order
    start: int  # of the run's steps
    steps: int  # of the run
    parts: tuple[Part, ...]


class OrderedStreams(ray.train.DataConfig):
    """As `data.stream.OrderedConfig`, for the streams of `feeds`, whose rows are `seq_lens` long; `batches` reads them.

    Each stream starts at the number of its own steps that the run has behind it, so that nothing beside the step that
    a checkpoint stands at has to be remembered.
    """

    def __init__(self, feeds: Sequence[Feed], seq_lens: Sequence[int], order: Order, start: Callable[[], int]):
        super().__init__()
        self.feeds, self.seq_lens, self.order, self.start = tuple(feeds), tuple(seq_lens), order, start

    def configure(self, datasets: dict[str, Any], world_size: int, *_: Any, **__: Any) -> list[dict[str, Parts | None]]:
        start, steps = self.start(), sum(feed.steps for feed in self.feeds)
        if start >= steps:
            return [dict.fromkeys(datasets) for _ in range(world_size)]
        return [dict.fromkeys(datasets, self.of(start, steps, rank, world_size)) for rank in range(world_size)]

    def of(self, start: int, steps: int, rank: int, workers: int) -> Parts:
        """What `rank` of `workers` reads from the step `start` on."""
        each = zip(self.feeds, self.order.before(start), self.seq_lens, strict=True)
        parts = tuple(Part(feed, taken, rank, workers, seq_len) for feed, taken, seq_len in each)
        return Parts(self.order, start, steps, parts)


def batches(found: Parts) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """Yield (step, stream, {column: int32 (rows, ...)}) for each step of the run, in order, this rank's rows of it."""
    readers = [stream.batches(part, part.feed.delivered) for part in found.parts]
    taken = found.order.before(found.start)
    for step in range(found.start, found.steps):
        number = found.order.stream(step)
        at, batch = next(readers[number])
        if at != taken[number]:
            raise RuntimeError(f"stream {number} delivered its step {at} where its step {taken[number]} was due")
        taken[number] += 1
        yield step, number, batch
    for reader in readers:
        reader.close()
