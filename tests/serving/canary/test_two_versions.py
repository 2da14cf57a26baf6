"""A Front with two versions of a model: who gets which, what clients notice of a bad one, and what is counted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serving.canary import trial as trials
from serving.canary.arms import CANARY, STABLE
from serving.canary.trial import Trial
from serving.fleet.fleet import Fleet
from serving.launch import Adapter, Canary
from tests.serving.fake_engine import CHAT, USAGE, served
from tests.serving.fake_fleet import Crew, FakeRunner, play, receiving, until, who, words

Story = Callable[[FakeRunner, Any, Trial, Fleet], Awaitable[Any]]


def duel(
    story: Story,
    canary: str | None = "new",
    drawn: bool = True,
    share: float = 0.5,
    longest: float = 600.0,
    **changes: Any,
) -> Any:
    """Run a story with a client of a Front over an "old" replica and one of a canary, which gets each request, or none."""

    async def run(crew: Crew, client: Any, fleet: Fleet) -> Any:
        other = Crew()
        runner = await other.start(canary) if canary else None
        version = served(max_ongoing_requests=100, fingerprint="c" * 64, slot="@b", **changes)
        fleet.compare(Canary((version,), share), {"tiny": other})
        trial = fleet.trials["tiny"]
        trial._draw = lambda: 0.0 if drawn else 0.99
        try:
            return await story(SimpleNamespace(crew=other, runner=runner), client, trial, fleet)
        finally:
            await other.end()

    async def named(crew: Crew, client: Any, fleet: Fleet) -> Any:
        await crew.start("old")
        return await run(crew, client, fleet)

    return play(named, names="", request_seconds=longest)


def counted(trial: Trial) -> dict[str, tuple[int, int]]:
    return {name: (arm.requests, arm.errors) for name, arm in trial.arms.items()}


class TestWho:
    @pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
    def test_the_share_is_kept(self, share):
        meters, versions = trials.Meters(), {STABLE: served(), CANARY: served()}
        trial = Trial(versions, None, share, 600.0, meters, draw=random.Random(1).random)
        found = sum(trial.draws() for _ in range(20_000)) / 20_000
        assert abs(found - share) < 4 * (share * (1 - share) / 20_000) ** 0.5

    def test_each_answer_is_signed_by_its_version_and_counted_for_it(self):
        async def story(other, client, trial, fleet):
            draws = iter([0.0, 0.99, 0.99, 0.0, 0.99])
            trial._draw = lambda: next(draws)
            answers = [await who(client) for _ in range(5)]
            return [(one.json()["who"], one.headers["x-manta-fingerprint"][0]) for one in answers], counted(trial)

        answers, found = duel(story)
        assert answers == [("new", "n"), ("old", "o"), ("old", "o"), ("new", "n"), ("old", "o")]
        assert found == {STABLE: (3, 0), CANARY: (2, 0)}

    def test_a_share_of_none_only_stands_there(self):
        async def story(other, client, trial, fleet):
            return (await who(client)).json(), other.runner.seen, counted(trial)

        assert duel(story, share=0.0) == ({"who": "old"}, [], {STABLE: (0, 0), CANARY: (0, 0)})

    def test_a_name_that_only_the_old_version_has_is_no_part_of_it(self):
        async def story(other, client, trial, fleet):
            return [trial.compares(name) for name in ("tiny", "law", "code")]

        assert duel(story, adapters=(Adapter("law", "/a", "1" * 64, 8),)) == [True, True, False]

    def test_when_nobody_asks_for_the_counts_all_goes_to_the_old_version(self):
        async def story(other, client, trial, fleet):
            moment = [0.0]
            trial._clock = lambda: moment[0]
            trial.tell()
            found = []
            for later in (trials.LEASE_SECONDS - 1, 2):
                moment[0] += later
                found.append((await who(client)).json()["who"])
            trial.tell()
            return [*found, (await who(client)).json()["who"]]

        assert duel(story) == ["new", "old", "new"]


class TestFailing:
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("does", ["500", "raise", "engine dies"])
    def test_what_it_fails_at_the_old_version_answers(self, does, stream):
        async def story(other, client, trial, fleet):
            other.runner.does = does
            answers = [await client.post(CHAT, json={"do": "who", "stream": stream}) for _ in range(5)]
            return answers, counted(trial)

        answers, found = duel(story)
        assert [one.status_code for one in answers] == [200] * 5
        assert all(one.headers["x-manta-fingerprint"][0] == "o" and "error" not in one.text for one in answers)
        assert found[STABLE] == (0, 0), "what it gets instead of the other is no choice by lot"
        assert found[CANARY] == (5, 5)

    @pytest.mark.parametrize("does", ["dead at once", "bad at once"])
    def test_a_stream_that_begins_with_an_error_has_not_begun(self, does):
        async def story(other, client, trial, fleet):
            other.runner.does = does
            return await client.post(CHAT, json={"do": "slow", "stream": True, "tokens": 2}), counted(trial)

        answer, found = duel(story)
        assert words(answer) == ["old "] * 2 and answer.text.endswith("data: [DONE]\n\n")
        assert found == {STABLE: (0, 0), CANARY: (1, 1)}

    @pytest.mark.parametrize("does", ["break", "stop short", "engine error"])
    def test_a_stream_that_has_begun_ends_with_an_error_event_and_counts(self, does):
        async def story(other, client, trial, fleet):
            other.runner.does = does
            return await client.post(CHAT, json={"do": "slow", "stream": True}), counted(trial)

        answer, found = duel(story)
        assert answer.text.count('data: {"error"') == 1 and "[DONE]" not in answer.text
        assert found == {STABLE: (0, 0), CANARY: (1, 1)}

    def test_a_request_that_is_wrong_counts_for_nobody(self):
        async def story(other, client, trial, fleet):
            answers = [await client.post(CHAT, json={"do": "400"}) for _ in range(2)]
            trial._draw = lambda: 0.99
            return [*answers, await client.post(CHAT, json={"do": "400"})], counted(trial)

        answers, found = duel(story)
        assert [one.json()["error"]["message"] for one in answers] == ["no"] * 3
        assert found == {STABLE: (0, 0), CANARY: (0, 0)}

    def test_a_request_that_only_the_new_version_finds_wrong_counts_against_it(self):
        async def story(other, client, trial, fleet):
            other.runner.does = "400"
            return await who(client), counted(trial)

        answer, found = duel(story)
        assert answer.json() == {"who": "old"} and found == {STABLE: (0, 0), CANARY: (1, 1)}

    def test_the_old_version_is_counted_too(self):
        async def story(other, client, trial, fleet):
            answers = [await client.post(CHAT, json={"do": do}) for do in ("who", "500")]
            return [one.status_code for one in answers], counted(trial)

        assert duel(story, drawn=False) == ([200, 500], {STABLE: (2, 1), CANARY: (0, 0)})

    def test_a_killed_replica_costs_no_answer(self):
        async def story(other, client, trial, fleet):
            await who(client)
            body = {"do": "slow", "tokens": 1, "seconds": 1.5}
            held = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(5)]
            await until(lambda: len(other.runner.seen) == 6)
            await other.crew.kill("new")
            answers = [*await asyncio.gather(*held), await who(client)]
            return [one.json() for one in answers], counted(trial)

        answers, found = duel(story)
        assert answers == [{"who": "old"}] * 6
        assert found == {STABLE: (0, 0), CANARY: (7, 6)}

    def test_before_a_replica_of_it_was_found_nothing_is_held_against_it(self):
        async def story(other, client, trial, fleet):
            return (await who(client)).json(), counted(trial)

        assert duel(story, canary=None) == ({"who": "old"}, {STABLE: (0, 0), CANARY: (0, 0)})

    def test_a_request_that_killed_it_may_kill_one_more_and_no_third(self):
        async def story(other, client, trial, fleet):
            answer = await client.post(CHAT, json={"do": "engine dies"})
            return answer, other.runner.seen, counted(trial)

        answer, seen, found = duel(story)
        assert answer.status_code == 500 and answer.headers["x-should-retry"] == "false"
        assert seen == ["engine dies"] and found == {STABLE: (0, 0), CANARY: (1, 1)}

    @pytest.mark.parametrize("drawn", [True, False])
    def test_who_leaves_counts_for_nobody(self, drawn):
        async def story(other, client, trial, fleet):
            receive = receiving(b'{"do": "slow", "tokens": 1, "seconds": 2}', leaves=0.1)
            scope = {"path": CHAT, "method": "POST", "headers": [], "state": {"model": "tiny", "tokens": 0}}
            await fleet(scope, receive, None)
            return counted(trial)

        assert duel(story, drawn=drawn) == {STABLE: (0, 0), CANARY: (0, 0)}

    @pytest.mark.parametrize("drawn", [True, False])
    def test_an_answer_that_takes_too_long_is_a_failure(self, drawn):
        async def story(other, client, trial, fleet):
            return await client.post(CHAT, json={"do": "forever"}), counted(trial)

        answer, found = duel(story, drawn=drawn, longest=0.5)
        assert answer.status_code == 504
        assert found == ({STABLE: (0, 0), CANARY: (1, 1)} if drawn else {STABLE: (1, 1), CANARY: (0, 0)})


class TestTimes:
    def test_of_streams_and_of_whole_answers(self):
        async def story(other, client, trial, fleet):
            for stream in (True, False):
                await client.post(CHAT, json={"do": "slow", "stream": stream, "tokens": 4, "seconds": 0.05})
            return trial.tell()[CANARY]

        told = duel(story)
        assert told["counts"] == {"ttft": 1, "tpot": 1, "latency": 1}
        [first], [each], [whole] = (told["times"][name] for name in ("ttft", "tpot", "latency"))
        assert 0.05 <= first < 0.15 <= 0.2 <= whole
        assert each >= 0.15 / (USAGE[1] - 1) * 0.9, "three pieces later, by the tokens that the engine tells"

    def test_metrics_tell_the_versions_apart(self):
        async def story(other, client, trial, fleet):
            await client.post(CHAT, json={"do": "slow", "stream": True, "tokens": 2})
            other.runner.does = "500"
            await who(client)
            return (await client.get("/metrics")).text

        text = duel(story)
        labels = 'fingerprint="cccccccccccccccc",model="tiny"'
        assert 'manta_canary_share{model="tiny"} 0.5\n' in text
        for outcome in ("ok", "error"):
            assert f'manta_version_requests_total{{{labels},outcome="{outcome}",version="canary"}} 1.0\n' in text
        assert f'manta_version_time_to_first_token_seconds_count{{{labels},version="canary"}} 1.0\n' in text
        assert 'up{manta_model="tiny",manta_replica="new"} 1\n' in text
