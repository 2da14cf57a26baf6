"""Rows of concurrent requests are computed together, in turns, and nobody waits for what has failed or left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from serving.tasks import passes
from serving.tasks.batching import AT_ONCE, Batcher
from serving.tasks.model import Row


def row(length: int, *manner: Any) -> Row:
    return Row({"input_ids": [1] * length}, None, manner)


class Slow:
    """A model that takes as long as it is told to, and notes what it computed together."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []

    def compute(self, model: Any, rows: Sequence[Row]) -> list[int]:
        self.batches.append([each.length for each in rows])
        self.begun.set()
        assert self.go.wait(10)
        if any(each.length == 13 for each in rows):
            raise RuntimeError("broken")
        return [each.length * 10 for each in rows]


def play(story: Any, **given: Any) -> Any:
    async def run() -> Any:
        slow = Slow()
        batcher = Batcher(None, **given)  # type: ignore[arg-type] # the model is the passes' business
        try:
            return await asyncio.wait_for(story(batcher, slow), 20)
        finally:
            batcher.stop()

    return asyncio.run(run())


async def begun(slow: Slow) -> None:
    while not slow.begun.is_set():
        await asyncio.sleep(0.005)


def test_what_comes_while_the_model_works_goes_together_next():
    async def story(batcher, slow):
        first = asyncio.create_task(batcher([row(5)], slow.compute))
        await begun(slow)
        others = [asyncio.create_task(batcher([row(length)], slow.compute)) for length in (7, 6, 8)]
        await asyncio.sleep(0.01)
        slow.go.set()
        assert await first == [50]
        assert [await other for other in others] == [[70], [60], [80]]
        return slow.batches

    assert play(story) == [[5], [6, 7, 8]]


def test_requests_of_one_moment_go_together_at_once():
    async def story(batcher, slow):
        slow.go.set()
        found = await asyncio.gather(*(batcher([row(length)], slow.compute) for length in (4, 3)))
        assert found == [[40], [30]]
        return slow.batches

    assert play(story) == [[3, 4]]


def test_a_request_of_many_rows_does_not_hold_up_a_small_one():
    async def story(batcher, slow):
        large = asyncio.create_task(batcher([row(2)] * 200, slow.compute))
        await begun(slow)
        small = asyncio.create_task(batcher([row(3)], slow.compute))
        await asyncio.sleep(0.01)
        slow.go.set()
        await small
        assert 3 in slow.batches[1], "the small one goes with the next batch"
        assert len(await large) == 200
        assert max(map(len, slow.batches)) == AT_ONCE

    play(story)


def test_a_failure_is_told_to_those_whom_it_concerns_and_the_others_are_answered():
    async def story(batcher, slow):
        slow.go.set()
        broken, fine = batcher([row(13), row(14)], slow.compute), batcher([row(200)], slow.compute)
        found = await asyncio.gather(broken, fine, return_exceptions=True)
        assert isinstance(found[0], RuntimeError) and found[1] == [2000]
        assert await batcher([row(1)], slow.compute) == [10]

    play(story)


def test_what_nobody_waits_for_is_not_computed():
    async def story(batcher, slow):
        first = asyncio.create_task(batcher([row(5)], slow.compute))
        await begun(slow)
        left = asyncio.create_task(batcher([row(6)], slow.compute))
        await asyncio.sleep(0.01)
        left.cancel()
        stays = asyncio.create_task(batcher([row(7)], slow.compute))
        await asyncio.sleep(0.01)
        slow.go.set()
        await asyncio.gather(first, stays)
        with pytest.raises(asyncio.CancelledError):
            await left
        return slow.batches

    assert play(story) == [[5], [7]]


def test_manners_are_not_mixed_and_lengths_are_alike():
    seen: list[tuple[int, int, int]] = []

    async def story(batcher, slow):
        slow.go.set()
        await asyncio.gather(
            *(batcher([each], slow.compute) for each in (row(4, 1), row(5, 2), row(6, 1), row(300, 1), row(7, 2)))
        )
        return slow.batches

    assert play(story, observe=lambda *told: seen.append(told)) == [[4, 6], [300], [5, 7]]
    assert seen == [(2, 10, 12), (1, 300, 300), (2, 12, 14)]


def test_padding_is_bounded():
    rows = [row(length) for length in (500, 3, 480, 30, 9, 1000)]
    assert passes.together(rows) == [[1, 4], [3], [2, 0], [5]]
    assert passes.together([row(400)] * 5, at_once=1000) == [[0, 1], [2, 3], [4]]
