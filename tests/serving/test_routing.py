"""Which replica Serve's router picks: the least busy, or the one that has seen how a prompt begins."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from serving.fleet.routing import LeastBusy, PrefixAffinity
from serving.fleet.team import prefix
from serving.fleet.wish import Wish

NAMES = ["a", "b", "c", "d"]


def replicas(names: list[str]) -> list[Any]:
    return [SimpleNamespace(replica_id=_Id(name)) for name in names]


class _Id:
    def __init__(self, name: str):
        self.unique_id = name

    def __hash__(self) -> int:
        return hash(self.unique_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Id) and self.unique_id == other.unique_id


def pick(router: Any, names: list[str], wish: Any, pending: Any = "one") -> list[str]:
    if pending == "one":
        pending = SimpleNamespace(args=[wish], routing_context=SimpleNamespace(should_backoff=False))
    ranks = asyncio.run(router.choose_replicas(replicas(names), pending))
    return [one.replica_id.unique_id for rank in ranks for one in rank]


@pytest.fixture
def by_load() -> LeastBusy:
    return LeastBusy.__new__(LeastBusy)


@pytest.fixture
def by_prefix() -> PrefixAffinity:
    """With the ring of Serve's own router over NAMES."""
    router = PrefixAffinity.__new__(PrefixAffinity)
    router._num_virtual_nodes, router._num_fallback_replicas, router._deployment_id = 100, 1_000_000, "d"
    ConsistentHashRouter._rebuild_ring(router, frozenset(one.replica_id for one in replicas(NAMES)))
    return router


def lost(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, time.monotonic() + 60)


class TestEither:
    @pytest.mark.parametrize("kind", ["by_load", "by_prefix"])
    def test_lost_ones_are_passed_over_until_their_time_is_up(self, request, kind):
        router = request.getfixturevalue(kind)
        assert {*pick(router, NAMES, Wish({}, lost("a", "b", "d")))} == {"c"}
        assert pick(router, NAMES, Wish({}, lost(*NAMES))) == []
        assert pick(router, NAMES, Wish({}, {name: time.monotonic() - 1 for name in NAMES}))

    @pytest.mark.parametrize("kind", ["by_load", "by_prefix"])
    def test_what_serve_carries_itself_may_go_anywhere(self, request, kind):
        router = request.getfixturevalue(kind)
        plain = SimpleNamespace(args=[], routing_context=SimpleNamespace(should_backoff=False))
        assert pick(router, NAMES, None, plain) == pick(router, NAMES, None, None) == NAMES


class TestLeastBusy:
    def test_the_one_with_fewest_requests(self, by_load):
        assert pick(by_load, NAMES, Wish({"a": 3, "b": 1, "c": 2, "d": 9}, {})) == ["b"]
        assert pick(by_load, NAMES, Wish({"a": 3, "b": 1, "c": 2, "d": 9}, lost("b"))) == ["c"]

    def test_equals_share(self, by_load):
        found = Counter(pick(by_load, NAMES, Wish({}, {}))[0] for _ in range(400))
        assert set(found) == set(NAMES) and min(found.values()) > 50


class TestPrefixAffinity:
    def test_alike_beginnings_go_to_the_same_replica_and_others_are_spread(self, by_prefix):
        chosen = {
            text: {pick(by_prefix, NAMES, Wish({}, {}, text))[0] for _ in range(5)}
            for text in (b"%d" % n for n in range(200))
        }
        assert all(len(found) == 1 for found in chosen.values())
        assert min(Counter(name for [name] in chosen.values()).values()) > 20

    def test_a_popular_one_does_not_drown(self, by_prefix):
        busy: Counter[str] = Counter()
        for _ in range(100):
            busy[pick(by_prefix, NAMES, Wish(busy, {}, b"everybody asks this"))[0]] += 1
        assert max(busy.values()) <= 1.25 * 100 / 4 + 1
        assert sum(busy.values()) == 100

    def test_the_rest_stay_where_they_are_when_one_is_lost(self, by_prefix):
        texts = [b"%d" % n for n in range(100)]
        before = {text: pick(by_prefix, NAMES, Wish({}, {}, text)) for text in texts}
        after = {text: pick(by_prefix, NAMES, Wish({}, lost("a"), text)) for text in texts}
        assert {text for text in texts if before[text] != after[text]} == {
            text for text in texts if before[text] == ["a"]
        }


class TestPrefix:
    def ask(self, *said: str, system: str = "Be brief.", **more: Any) -> bytes:
        roles = ["user", "assistant"] * 3
        messages = [
            {"role": "system", "content": system},
            *({"role": role, "content": text} for role, text in zip(roles, said, strict=False)),
        ]
        return json.dumps({"model": "m", "messages": messages, **more}).encode()

    def test_the_turns_of_a_conversation_begin_alike(self):
        first, later = self.ask("Hello"), self.ask("Hello", "Hi.", "And now?", temperature=0.5)
        assert (
            prefix(first)
            == prefix(later)
            != prefix(self.ask("Good evening"))
            != prefix(self.ask("Hello", system="Rhyme."))
        )

    def test_so_do_questions_about_one_text(self):
        text = "Once upon a time. " * 200
        assert prefix(json.dumps({"prompt": text + "Who?"}).encode()) == prefix(
            json.dumps({"prompt": text + "When?"}).encode()
        )
        assert prefix(b'{"prompt": "a"}') != prefix(b'{"prompt": "b"}')

    @pytest.mark.parametrize(
        "body", [b"", b"no", b"[]", b"null", b'{"messages": 5}', b'{"messages": []}', b'{"messages": ["x", 3]}', b"{}"]
    )
    def test_what_is_wrong_has_one_too(self, body):
        assert isinstance(prefix(body), bytes)
