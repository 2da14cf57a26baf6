"""A new version on a share of the requests under Ray Serve: it takes over when it is as good, and goes when it is not."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import httpx
import pytest

from manta.errors import GateRefused, MantaError, StageFailed
from manta.progress import Progress
from serving import deploy, update
from serving.launch import Launch
from tests.serving.fake_engine import FINGERPRINT
from tests.serving.fake_fleet import FAILING, SLOW, FakeReplica
from tests.serving.fake_serve import ask, client, pids, running, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

GOOD, BAD = "cd" * 32, "ef" * 32
REFUSED = 0  # in the place of a status: nothing came
CANARY = {"share": 0.3, "requests": 40, "seconds": 60, "max_error_rate_increase": 0.15, "max_ttft_ratio": 2.0, "max_tpot_ratio": 2.0, "max_latency_ratio": 2.0}  # fmt: skip


class Endpoint:
    """One that runs, clients that ask it all the time, and what they got."""

    def __init__(self, plan: Launch, front: Any, recipe: Callable[..., Any]):
        self.was = deploy.Running(plan.url, plan, 0.0, {})
        self.front = front
        self.recipe = recipe
        self.seen: list[tuple[int, str, bool]] = []  # of each request: status, fingerprint, whether it ended well
        self.told: list[dict[str, Any]] = []  # figures of the canary

    def become(self, fingerprint: str, model: str, wanted: Callable[[], bool], **changes: Any) -> None:
        [now] = self.was.launch.served
        plan = dataclasses.replace(self.was.launch, served=(dataclasses.replace(now, fingerprint=fingerprint, model=model, slot=""),))  # fmt: skip
        with (
            mock.patch("serving.fleet.replica.Replica", FakeReplica),
            mock.patch("serving.update.launches.prepare", return_value=plan),
        ):
            recipe = self.recipe(canary={**CANARY, **changes})
            self.was = update.update(self.was, recipe, Progress(quiet=True), self.told.append, wanted)

    async def keep_asking(self, stop: asyncio.Event, stream: bool) -> None:
        async with client(self.was.launch) as http:
            while not stop.is_set():
                try:
                    answer = await ask(http, stream=stream, tokens=2, seconds=0.01)
                except httpx.TransportError:  # no Front listens
                    self.seen.append((REFUSED, "", False))
                    await asyncio.sleep(0.05)
                    continue
                well = answer.text.endswith("data: [DONE]\n\n") if stream else "who" in answer.text
                self.seen.append((answer.status_code, answer.headers["x-manta-fingerprint"], well))

    def under_load(
        self,
        fingerprint: str,
        model: str,
        wanted: Callable[[], bool] = lambda: True,
        meanwhile: Any = None,
        **changes: Any,
    ) -> MantaError | None:
        """Update it while clients ask, streams and whole answers. Returns what the update raised."""

        async def story() -> MantaError | None:
            stop, self.seen, self.told = asyncio.Event(), [], []
            asking = [asyncio.create_task(self.keep_asking(stop, number % 2 == 0)) for number in range(4)]
            more = [asyncio.create_task(meanwhile())] if meanwhile else []
            try:
                await asyncio.to_thread(self.become, fingerprint, model, wanted, **changes)
                return None
            except MantaError as error:
                return error
            finally:
                await asyncio.sleep(0.3)
                stop.set()
                await asyncio.gather(*asking, *more)

        return asyncio.run(story())

    def answers(self) -> Counter[str]:
        """The fingerprints of all answers, which all have to be good."""
        assert {(status, well) for status, _, well in self.seen} == {(200, True)}
        return Counter(found for _, found, _ in self.seen)

    def deployments(self) -> set[str]:
        return {name for name, number in deploy.running_replicas(self.was.launch.name).items() if number}


@pytest.fixture(scope="module")
def endpoint(ray_session: Any, serve_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("canary")
    with running("canaries", 1, 1, front=True) as (plan, front):
        yield Endpoint(plan, front, lambda **serve: serve_recipe(folder, folder, front=True, **serve))


def test_one_that_answers_500_goes_back_and_no_client_notices(endpoint):
    error = endpoint.under_load(BAD, FAILING)
    assert isinstance(error, GateRefused) and "errors 100.0% instead of 0.0%" in str(error)
    assert str(error).endswith("goes on as it was")
    assert set(endpoint.answers()) == {FINGERPRINT} and endpoint.deployments() == {"Front", "Replica-tiny"}
    last = endpoint.told[-1]
    assert last["state"] == "went back" and last["models"]["tiny"]["canary"]["errors"] >= 10
    assert last["models"]["tiny"]["fingerprints"] == {"stable": FINGERPRINT, "canary": BAD}


def test_one_that_is_slow_goes_back(endpoint):
    error = endpoint.under_load(BAD, SLOW, requests=400)
    assert isinstance(error, GateRefused) and "time" in str(error) and "times (" in str(error)
    found = endpoint.answers()
    assert set(found) == {FINGERPRINT, BAD} and endpoint.told[-1]["models"]["tiny"]["canary"]["errors"] == 0


def test_without_enough_traffic_it_goes_back_and_says_so(endpoint):
    error = endpoint.under_load(GOOD, "/m", requests=100_000, seconds=1)
    assert type(error) is StageFailed and "had not enough traffic" in str(error)
    assert "of serve.canary.requests = 100000 in 1 s" in str(error)
    assert endpoint.deployments() == {"Front", "Replica-tiny"}


def test_it_can_be_called_off(endpoint):
    error = endpoint.under_load(GOOD, "/m", wanted=lambda: len(endpoint.told) < 3, requests=100_000)
    assert isinstance(error, update.CalledOff) and endpoint.told[-1]["state"] == "went back"
    endpoint.answers()


def test_a_killed_replica_of_it_costs_no_whole_answer(endpoint):
    async def kill() -> None:
        async def comparing() -> bool:
            return bool(endpoint.told) and endpoint.told[-1]["models"]["tiny"]["canary"]["requests"] > 5

        before = await asyncio.to_thread(pids, endpoint.front)
        await until(comparing, "the comparison does not begin")
        [victim] = set(await asyncio.to_thread(pids, endpoint.front)) - set(before)
        os.kill(victim, signal.SIGKILL)

    error = endpoint.under_load(GOOD, "/m", meanwhile=kill, requests=100_000, seconds=6)
    assert isinstance(error, MantaError)
    assert {status for status, _, _ in endpoint.seen} == {200}
    broken = [one for one in endpoint.seen if not one[2]]
    assert len(broken) <= 2 and {found for _, found, _ in broken} <= {GOOD}, "streams that it had begun"
    assert endpoint.told[-1]["models"]["tiny"]["canary"]["errors"] >= len(broken)


def test_y_a_front_that_ends_meanwhile_is_another_that_goes_on_comparing(endpoint):
    """What it had counted still counts. The clients find no open port until the next one listens, with the same share."""
    counts: dict[str, int] = {}

    def asked() -> int:
        return int(endpoint.told[-1]["models"]["tiny"]["canary"]["requests"]) if endpoint.told else 0

    async def kill() -> None:
        async def comparing() -> bool:
            return asked() > 5

        async def further() -> bool:
            return asked() > counts["before"] + 20

        await until(comparing, "the comparison does not begin")
        [front, *_] = await asyncio.to_thread(pids, endpoint.front)
        os.kill(front, signal.SIGKILL)
        await asyncio.sleep(update.POLL_SECONDS + 0.5)  # what was asked of it before is told now
        counts["before"] = asked()
        await until(further, "no Front compares")

    error = endpoint.under_load(
        GOOD, "/m", meanwhile=kill, wanted=lambda: not counts or asked() <= counts["before"] + 20, requests=100_000
    )
    assert isinstance(error, update.CalledOff) and counts["before"] > 5
    assert endpoint.told[-1]["models"]["tiny"]["canary"]["errors"] == 0
    assert {status for status, _, _ in endpoint.seen} == {200, REFUSED} and endpoint.seen[-1][0] == 200
    assert endpoint.deployments() == {"Front", "Replica-tiny"}


def test_z_a_good_one_takes_over_with_the_replicas_that_proved_it_and_no_request_fails(endpoint):
    """Last of these: afterwards the endpoint is another. And once more, into the slot that the first had."""
    before = pids(endpoint.front)
    for fingerprint, deployment in ((GOOD, "Replica-tiny@b"), (FINGERPRINT, "Replica-tiny")):
        old = endpoint.was.launch.fingerprint
        assert endpoint.under_load(fingerprint, "/m") is None
        found, figures = endpoint.answers(), endpoint.told[-1]
        assert figures["state"] == "promoted" and figures["models"]["tiny"]["verdict"] == "good"
        assert figures["models"]["tiny"]["canary"]["requests"] >= CANARY["requests"]
        assert set(found) == {old, fingerprint} and endpoint.seen[-1][1] == fingerprint
        assert endpoint.deployments() == {"Front", deployment}
    after = pids(endpoint.front)
    assert before[0] == after[0] and before[1] != after[1]
    assert httpx.get(f"{endpoint.was.url}/health", timeout=30).status_code == 200
