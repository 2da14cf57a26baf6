"""Rows of concurrent requests are computed together: what has come while the model was at work goes next, at once.

Ray's `serve.batch` closes a batch when its waiting time is over, also while the model is at work: under load, small
batches queue behind each other, and a request that comes alone waits for others in vain.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from serving.tasks.model import Model, Row
from serving.tasks.passes import AT_ONCE_TOKENS, GAP_TOKENS, gaps, together

AT_ONCE = 32  # rows

Compute = Callable[[Model, Sequence[Row]], Sequence[Any]]
Observe = Callable[[int, int, int], None]


@dataclass
class _Job:
    """A request's rows, the places of those that still wait, and the outputs that are there."""

    rows: Sequence[Row]
    compute: Compute
    waiting: deque[int]
    outputs: dict[int, Any]
    done: asyncio.Future[None]

    @property
    def manner(self) -> tuple[Any, ...]:
        return self.compute, self.rows[self.waiting[0]].manner


class Batcher:
    """One model's queue. `observe(rows, their tokens, tokens with padding)` is called after each computation."""

    def __init__(self, model: Model, observe: Observe = lambda *_: None):
        self._model = model
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, rows: Sequence[Row], compute: Compute) -> list[Any]:
        """The output of each row. Raises what `compute` raised of a batch that one of them was in.

        Requests take turns, row by row: one of a thousand texts does not hold up one of a single text.
        """
        job = _Job(rows, compute, deque(range(len(rows))), {}, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        await job.done
        return [job.outputs[place] for place in range(len(rows))]

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Compute until nothing waits. Whoever comes meanwhile is in the next batch."""
        await asyncio.sleep(0)  # for the requests of this very moment
        while chosen := self._next():
            rows = [job.rows[place] for job, place in chosen]
            for group in together(rows, GAP_TOKENS if chosen[0][0].compute is gaps else AT_ONCE_TOKENS):
                await self._compute([chosen[place] for place in group])

    async def _compute(self, part: list[tuple[_Job, int]]) -> None:
        rows, compute = [job.rows[place] for job, place in part], part[0][0].compute
        try:
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self._thread, compute, self._model, rows)
            lengths = [row.length for row in rows]
            self._observe(len(rows), sum(lengths), len(rows) * max(lengths))
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for job, _ in part:
                if not job.done.done():
                    job.done.set_exception(error)
            return
        for (job, place), output in zip(part, outputs, strict=True):
            job.outputs[place] = output
            if len(job.outputs) == len(job.rows) and not job.done.done():
                job.done.set_result(None)

    def _next(self) -> list[tuple[_Job, int]]:
        """What is computed next: rows of one manner, one of each request in turn."""
        chosen: list[tuple[_Job, int]] = []
        others: list[_Job] = []
        manner = None
        while self._jobs and len(chosen) < AT_ONCE:
            job = self._jobs.popleft()
            if job.done.done():  # its client left, or another of its rows failed
                continue
            manner = manner or job.manner
            if job.manner != manner:
                others.append(job)
                continue
            chosen.append((job, job.waiting.popleft()))
            if job.waiting:
                self._jobs.append(job)
        self._jobs.extendleft(reversed(others))
        return chosen
