"""The replicas of one model as one Front sees them: which to ask, which not to ask now, and what they tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from typing import Any, Protocol

from serving.fleet.relay import Place
from serving.fleet.wish import Wish
from serving.launch import Served

LOST_SECONDS = (
    10.0  # a replica that failed is not asked for so long; by then Serve has replaced it, or it is well again
)
WAKE_SECONDS = 0.2  # a model that may have no replica: after so long without one, Serve is asked to start one
TELL_SECONDS = 5.0  # for what a replica tells of itself
PREFIX_BYTES = 2048  # of a text that decide where it goes


log = logging.getLogger("serving")


class Handle(Protocol):
    """What is used of Ray Serve's DeploymentHandle of a model's replicas."""

    wake: Any

    def choose_replica(self, *args: Any, **kwargs: Any) -> contextlib.AbstractAsyncContextManager[Any]:
        """A replica, as Serve's router picks it."""

    def broadcast(self, method_name: str, *args: Any) -> Any:
        """The answers of all replicas to a call."""


class Team:
    """The replicas of one model."""

    def __init__(self, served: Served, handle: Handle, by_prefix: bool = False):
        self.served = served
        self.handle = handle
        self.by_prefix = by_prefix
        self.busy: Counter[str] = Counter()  # requests on their way, by Serve's id of the replica
        self.lost: dict[str, float] = {}  # replica -> until when it is not asked (time.monotonic)
        self._waking: asyncio.Task[None] | None = None

    async def choose(
        self, until: float, body: bytes = b"", gone: asyncio.Task[None] | None = None
    ) -> tuple[str, Place] | None:
        """A replica to ask: Serve's id of it, and where it listens. None where there is none `until` then (the loop's
        time), or when the client has `gone`."""
        wish = Wish(self.busy, self.lost, prefix(body) if self.by_prefix else b"")
        loop = asyncio.get_running_loop()
        limit = min(until, loop.time() + WAKE_SECONDS) if self.served.min_replicas == 0 else until
        while True:
            with contextlib.suppress(TimeoutError):
                async with _ended_by(gone, limit), self.handle.choose_replica(wish, _reserve=False) as chosen:
                    told = chosen.replica_metadata
                    return chosen.replica_id, Place(told["host"], told["port"], told["token"])
            if limit >= until or (gone is not None and gone.done()):
                return None
            limit = until
            self._wake()

    def lose(self, replica: str) -> None:
        """Ask this one no more for a while."""
        self.lost[replica] = time.monotonic() + LOST_SECONDS

    async def metrics(self) -> list[tuple[str, str]]:
        """The metrics of each replica: its name, and its page in Prometheus' text format."""
        return await self._all("metrics")

    async def process_ids(self) -> list[list[int]]:
        """The processes of each replica."""
        return await self._all("process_ids")

    async def _all(self, method: str) -> list[Any]:
        """What each replica answers to a call; of those that are there now, and do answer."""
        from ray.serve.exceptions import DeploymentUnavailableError

        try:
            told = await self.handle.broadcast(method).results_async(timeout_s=TELL_SECONDS, return_exceptions=True)
        except DeploymentUnavailableError:  # there is none now
            return []
        for failed in (one for one in told if isinstance(one, Exception)):
            log.warning("a replica of %s did not tell its %s: %s", self.served.name, method, failed)
        return [one for one in told if not isinstance(one, Exception)]

    def _wake(self) -> None:
        """Have Serve see that somebody waits: from zero replicas it scales by the requests that it carries itself."""
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._woken())

    async def _woken(self) -> None:
        await self.handle.wake.remote()


@contextlib.asynccontextmanager
async def _ended_by(gone: asyncio.Task[None] | None, limit: float) -> Any:
    """asyncio.timeout_at, that also ends when the client has gone."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout_at(limit) as timeout:

        def end(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                timeout.reschedule(loop.time())

        if gone is not None:
            gone.add_done_callback(end)
        try:
            yield
        finally:
            if gone is not None:
                gone.remove_done_callback(end)


def prefix(body: bytes) -> bytes:
    """How a request's prompt begins: a conversation up to its first question, the first PREFIX_BYTES of a text.

    The turns of one conversation have this in common, and so have questions about one long document.
    """
    try:
        asked = json.loads(body)
    except ValueError:  # the model's own server will say so
        return b""
    messages = asked.get("messages") if isinstance(asked, dict) else None
    if not isinstance(messages, list):
        return json.dumps(asked.get("prompt", "") if isinstance(asked, dict) else "").encode()[:PREFIX_BYTES]
    first = next(
        (number for number, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "user"), 0
    )
    return json.dumps(messages[: first + 1]).encode()
