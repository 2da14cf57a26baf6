"""Limits that hold over several Fronts: what each counts is told to the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.door.keys import ANONYMOUS
from serving.door.limits import Limits
from serving.fleet import ledger
from serving.fleet.ledger import Ledger

OWN = ANONYMOUS.model_copy(update={"id": "alice", "requests_per_minute": 6, "tokens_per_minute": 100})


def let_in(limits: Limits, key: Any, number: int) -> int:
    """How many of so many requests are let in."""
    return sum(limits.take_request(key) is None for _ in range(number))


def exchange(book: Ledger, *fronts: Limits) -> None:
    """Each tells what it has counted, and then hears what the others have."""
    for _ in range(2):
        for number, limits in enumerate(fronts):
            limits.charge(book.tell(str(number), limits.take_used()))


@pytest.mark.parametrize(("key", "limit"), [(ANONYMOUS, 10), (OWN, 6)])
def test_over_a_minute_two_fronts_let_in_what_one_would(key, limit):
    """What both let in before they knew of each other is waited for: on average the limit holds."""
    now = [0.0]
    fronts = [Limits(10, None, lambda: now[0]) for _ in range(2)]
    book = Ledger()
    exchange(book, *fronts)
    assert [let_in(one, key, 99) for one in fronts] == [limit, limit]
    exchange(book, *fronts)
    got = 0
    for second in range(1, 301):
        now[0] = float(second)
        got += sum(let_in(one, key, 1) for one in fronts)
        exchange(book, *fronts)
    assert got == pytest.approx(4 * limit, abs=2), "five minutes' worth, of which one was taken too early"


def test_tokens_count_by_what_was_used():
    fronts = [Limits(None, None, lambda: 0.0) for _ in range(2)]
    book = Ledger()
    exchange(book, *fronts)
    assert fronts[0].reserve(OWN, 90) is None
    fronts[0].settle(OWN, 90, 30)
    exchange(book, *fronts)
    assert fronts[1].reserve(OWN, 71) is not None and fronts[1].reserve(OWN, 70) is None


def test_nobody_hears_of_itself_and_who_is_silent_is_forgotten():
    book, used = Ledger(), {("alice", None, None): (1, 5)}
    assert book.tell("a", used) == {} and book.tell("b", {}) == {}
    assert book.tell("a", used) == {} and book.tell("a", used) == {}
    assert book.tell("b", {}) == {("alice", None, None): (2, 10)}
    for _ in range(ledger.SILENT_ROUNDS + 2):
        book.tell("a", used)
    assert book.tell("b", {}) == {}, "it is as new"


@pytest.mark.integration
def test_fronts_meet_in_an_actor_and_find_another_when_it_dies(ray_session, monkeypatch):
    import ray

    monkeypatch.setattr(ledger, "TELL_SECONDS", 0.05)
    fronts = [Limits(None, None, lambda: 0.0) for _ in range(2)]

    async def heard(charge: int) -> None:
        fronts[0].reserve(OWN, charge)
        while fronts[1].tokens.headers("alice", "tokens", 100)[1][1] != b"%d" % (100 - charge):
            await asyncio.sleep(0.05)

    async def story() -> None:
        sharing = [
            asyncio.create_task(ledger.share(str(number), lambda one=one: one, lambda: ledger.actor("shared")))
            for number, one in enumerate(fronts)
        ]
        async with asyncio.timeout(60):
            await asyncio.sleep(1.0)
            await heard(10)
            ray.kill(ray.get_actor("ledger-shared", "manta"))
            fronts[1].settle(OWN, 10, 0)
            await asyncio.sleep(2.0)
            await heard(10)
        for task in sharing:
            task.cancel()
        ray.kill(ray.get_actor("ledger-shared", "manta"))

    asyncio.run(story())
