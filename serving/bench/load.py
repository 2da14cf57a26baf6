"""How requests arrive: by a Poisson process that waits for nobody, or from clients that each wait for their answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.bench.client import Sample

WATCH_SECONDS = 0.01  # how often the event loop is asked whether it is on time
Ask = Callable[[Any, float], Awaitable[Sample]]
Told = Callable[[int], None]


def arrivals(rate: float, requests: int, seed: int) -> list[float]:
    """When each request is due, in seconds from the start: gaps are exponential with mean 1 / `rate`."""
    draw = random.Random(seed)
    moment, moments = 0.0, []
    for _ in range(requests):
        moments.append(moment)
        moment += draw.expovariate(rate)
    return moments


@dataclass
class Course:
    """What happened: the samples, when the first was due and the last ended, and how late the client itself was."""

    samples: list[Sample]
    started: float
    ended: float
    most_at_once: int
    lags: list[float] = field(default_factory=list)  # seconds by which the event loop woke too late


class _Counter:
    def __init__(self, told: Told):
        self.now = self.most = self.done = 0
        self._told = told

    async def ask(self, ask: Ask, prompt: Any, due: float) -> Sample:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await ask(prompt, due)
        finally:
            self.now -= 1
            self.done += 1
            self._told(self.done)


async def open_loop(ask: Ask, prompts: Sequence[Any], moments: Sequence[float], told: Told) -> Course:
    """Send each prompt at its moment, whether or not earlier ones were answered."""
    clock = asyncio.get_running_loop().time
    counter = _Counter(told)
    started = clock()
    async with _Watch() as watch, asyncio.TaskGroup() as group:
        tasks = []
        for prompt, moment in zip(prompts, moments, strict=True):
            await asyncio.sleep(max(0.0, started + moment - clock()))
            tasks.append(group.create_task(counter.ask(ask, prompt, started + moment)))
    return Course([task.result() for task in tasks], started, clock(), counter.most, watch.lags)


async def closed_loop(ask: Ask, prompts: Sequence[Any], concurrency: int, told: Told) -> Course:
    """`concurrency` clients take the prompts in order, each the next one when its last is answered."""
    clock = asyncio.get_running_loop().time
    counter = _Counter(told)
    waiting = iter(enumerate(prompts))
    samples: dict[int, Sample] = {}

    async def client() -> None:
        for number, prompt in waiting:
            samples[number] = await counter.ask(ask, prompt, clock())

    started = clock()
    async with _Watch() as watch, asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(prompts))):
            group.create_task(client())
    return Course([samples[number] for number in sorted(samples)], started, clock(), counter.most, watch.lags)


class _Watch:
    """Measures, while a block runs, by how much this client's own event loop is late."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def __aenter__(self) -> _Watch:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            before = clock()
            await asyncio.sleep(WATCH_SECONDS)
            self.lags.append(max(0.0, clock() - before - WATCH_SECONDS))
