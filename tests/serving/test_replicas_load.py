"""Replicas under Ray Serve and a load that changes: more while first tokens are late, and the replica that knows a prompt."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import httpx
import pytest

from serving.fleet.scale import Scale
from serving.launch import Launch
from tests.serving.fake_engine import CHAT
from tests.serving.fake_serve import ask, client, crew, running, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CONVERSATIONS, TURNS = 16, 4


def test_late_first_tokens_bring_a_replica_and_quick_ones_let_it_go(ray_session: Any) -> None:
    """Requests and tokens alone would never ask for a second one. Nothing is lost on the way up or down."""
    scale = Scale(target_requests=10_000, target_tokens=None, target_ttft_ms=400, up_seconds=1.0, down_seconds=2.0)

    async def story(plan: Launch) -> list[httpx.Response]:
        async with client(plan) as http:
            asked: list[asyncio.Task[httpx.Response]] = []

            def stream(tokens: int, seconds: float) -> None:
                asked.append(asyncio.create_task(ask(http, stream=True, tokens=tokens, seconds=seconds)))

            async def two() -> bool:
                stream(2, 0.8)  # seconds to its first token
                return len(await crew(http, 4)) == 2

            await until(two, "late first tokens bring no second replica")
            for _ in range(4):
                stream(100, 0.1)  # on both, and until one of them ends

            async def alone() -> bool:
                for _ in range(40):
                    stream(1, 0.0)
                await asyncio.sleep(0.2)
                return len(await crew(http, 4)) == 1

            await until(alone, "quick first tokens let no replica go")
            return await asyncio.gather(*asked)

    with running("late", 1, 2, scale=scale) as (plan, _):
        answers = asyncio.run(story(plan))
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
    assert [answer for answer in answers if not answer.text.endswith("data: [DONE]\n\n")] == []


def test_turns_of_a_conversation_meet_the_same_replica(ray_session: Any) -> None:
    async def story(plan: Launch) -> dict[int, Counter[str]]:
        met: dict[int, Counter[str]] = defaultdict(Counter)
        async with client(plan) as http:
            for turn in range(TURNS):
                for number in range(CONVERSATIONS):
                    said = [{"role": "user", "content": f"question {number}"}]
                    for past in range(turn):
                        said += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": f"and {past}"}]
                    answer = await http.post(CHAT, json={"do": "who", "messages": said})
                    met[number][answer.json()["who"]] += 1
        return met

    with running("prefixed", 2, 2, routing="prefix") as (plan, _):
        met = asyncio.run(story(plan))
    assert [list(counts.values()) for counts in met.values()] == [[TURNS]] * CONVERSATIONS
    by_replica = Counter(next(iter(counts)) for counts in met.values())
    assert len(by_replica) == 2 and min(by_replica.values()) >= 2
