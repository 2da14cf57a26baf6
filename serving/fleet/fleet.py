"""The replicas of an endpoint's models, as one application: each request goes to a replica of its model, and to another
where that one fails before anything was sent to the client. Ray Serve knows the replicas and picks one: see routing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any

from serving.door.answers import DOWN, FATAL, STREAM, Header, Receive, Refused, Send
from serving.door.routes import OPENAPI_PATH
from serving.fleet.private import AT_WORK, MODEL, PROBE, TOKENS, UNAVAILABLE, USAGE, USAGE_EVENT, read_usage
from serving.fleet.relay import Connection, Head, Lines, Lost, Place
from serving.fleet.scrape import merged
from serving.fleet.team import Handle, Team
from serving.launch import Launch

log = logging.getLogger("serving")

ALIVE_SECONDS, PROBE_SECONDS = 1.0, 5.0  # how long it may take to find a replica for a health check, for a probe
MOST_LOSSES = 2  # a request that so many replicas died of is not given to a third
CARRIED = frozenset({b"content-type", b"accept", b"x-request-id", b"traceparent", b"tracestate"})


class BrokenOff(Exception):
    """A replica went away in the middle of its answer."""


class Fleet:
    """The `app` of a Front's Gateway, and what that asks about health. `handles`: name of a model -> Serve's handle."""

    def __init__(self, launch: Launch, handles: Mapping[str, Handle]):
        self.launch = launch
        self.teams = {one.name: Team(one, handles[one.name], launch.routing == "prefix") for one in launch.served}
        self.lines = Lines()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Raises Refused where there is no replica in time, BrokenOff where one went away in the middle of its answer."""
        if scope["path"] == "/metrics":
            return await self._tell_metrics(send)
        if scope["path"] == OPENAPI_PATH:
            return await self._tell_routes(send)
        served = self.launch.find(scope["state"]["model"])
        assert served is not None, "the gateway lets through only models that are served"
        body = (await receive())["body"]
        gone = asyncio.create_task(_disconnect(receive))
        try:
            await self._ask(self.teams[served.name], scope, body, gone, send)
        finally:
            gone.cancel()

    async def _ask(
        self, team: Team, scope: MutableMapping[str, Any], body: bytes, gone: asyncio.Task[None], send: Send
    ) -> None:
        """Have a replica answer, and another one where that is lost before it began; at most MOST_LOSSES that had it."""
        losses = 0
        headers = [item for item in scope["headers"] if item[0] in CARRIED]
        state = scope["state"]
        headers += [(TOKENS, b"%d" % state["tokens"]), (MODEL, state["model"].encode())]
        until = asyncio.get_running_loop().time() + self.launch.hold_seconds
        while not gone.done():
            found = await team.choose(until, body, gone)
            if found is None:
                if gone.done():
                    return
                raise Refused(DOWN)
            replica, place = found
            team.busy[replica] += 1
            try:
                async with self._answer(place, scope["method"], scope["path"], headers, body, gone) as (
                    connection,
                    head,
                ):
                    await _carry(connection, head, scope["state"], send)
                return
            except Lost as lost:
                if gone.done():
                    return
                log.warning("a replica of %s is lost", team.served.name)
                self._lose(team, replica, place)
                losses += lost.at_work
                if losses == MOST_LOSSES:
                    raise Refused(FATAL) from lost
            finally:
                team.busy[replica] -= 1

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        place: Place,
        method: str,
        path: str,
        headers: Iterable[Header],
        body: bytes,
        gone: asyncio.Task[None] | None,
    ) -> AsyncIterator[tuple[Connection, Head]]:
        """Ask a replica: the beginning of its answer, and the connection that brings the rest. Raises Lost.

        The connection is broken when the client has `gone`.
        """
        for new in (False, True):
            try:
                connection = await self.lines.take(place, new)
            except Lost as lost:
                raise Lost(at_work=new) from lost  # what was asked over the one that broke may have been at work
            kept = connection.used

            def give_up(_: object, connection: Connection = connection) -> None:
                connection.give_up()

            if gone is not None:
                gone.add_done_callback(give_up)
            try:
                connection.ask(method.encode(), path.encode(), place, headers, body)
                try:
                    head = await connection.head()
                except Lost:
                    if kept and not (gone is not None and gone.done()):  # the replica had closed it as idle, perhaps
                        continue
                    raise
                for name, value in head.headers:
                    if name == UNAVAILABLE:
                        raise Lost(at_work=value == AT_WORK)
                yield connection, head
                return
            finally:
                if gone is not None:
                    gone.remove_done_callback(give_up)
                self.lines.give_back(place, connection)

    def _lose(self, team: Team, replica: str, place: Place) -> None:
        team.lose(replica)
        self.lines.forget(place)

    # --- health and metrics -------------------------------------------------------------------------------------------

    async def alive(self) -> bool:
        """Whether any model has a replica, or may do without one."""
        return any(await asyncio.gather(*(self._has_one(team) for team in self.teams.values())))

    async def _has_one(self, team: Team) -> bool:
        until = asyncio.get_running_loop().time() + ALIVE_SECONDS
        return team.served.min_replicas == 0 or await team.choose(until) is not None

    async def generate_once(self) -> None:
        """One real answer of each model that is never without a replica. Raises Lost where none of its replicas does."""
        await asyncio.gather(*(self._probe(team) for team in self.teams.values() if team.served.min_replicas))

    async def _probe(self, team: Team) -> None:
        until = asyncio.get_running_loop().time() + PROBE_SECONDS
        while (found := await team.choose(until)) is not None:
            replica, place = found
            try:
                async with self._answer(place, "POST", PROBE, (), b"", None) as (connection, head):
                    while await connection.pieces():
                        pass
                if head.status == 200:
                    return
                log.warning("a replica of %s answered its probe with %d", team.served.name, head.status)
                self._lose(team, replica, place)
            except Lost:
                self._lose(team, replica, place)
        raise Lost()

    async def _tell_routes(self, send: Send) -> None:
        """What an engine that writes text says of its routes; all of them say the same. Raises Refused."""
        team = next(team for team in self.teams.values() if not team.served.tasks)
        until = asyncio.get_running_loop().time() + PROBE_SECONDS
        while (found := await team.choose(until)) is not None:
            replica, place = found
            try:
                async with self._answer(place, "GET", OPENAPI_PATH, (), b"", None) as (connection, head):
                    return await _carry(connection, head, {}, send)
            except Lost:
                self._lose(team, replica, place)
        raise Refused(DOWN)

    async def _tell_metrics(self, send: Send) -> None:
        told = await asyncio.gather(*(team.metrics() for team in self.teams.values()))
        pages = {
            (team.served.name, name): page
            for team, found in zip(self.teams.values(), told, strict=True)
            for name, page in found
        }
        fields = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": merged(pages).encode()})


async def _carry(connection: Connection, head: Head, state: MutableMapping[str, Any], send: Send) -> None:
    """Pass an answer on, piece by piece. Raises BrokenOff."""
    streams = False
    for name, value in head.headers:
        if name == USAGE:
            _leave_usage(state, value)
        streams = streams or (name == b"content-type" and value.startswith(STREAM))
    fields = [item for item in head.headers if item[0] != USAGE]
    await send({"type": "http.response.start", "status": head.status, "headers": fields})
    try:
        while pieces := await connection.pieces():
            for piece in pieces:
                if streams and piece.startswith(USAGE_EVENT):
                    _leave_usage(state, piece)
                else:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
    except Lost as error:
        raise BrokenOff from error
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _leave_usage(state: MutableMapping[str, Any], told: bytes) -> None:
    """Leave what the answer used where vLLM would have left it, had it run here: serving.engines.vllm.usage finds it."""
    prompt, answer = read_usage(told)
    used = SimpleNamespace(prompt_tokens=prompt, completion_tokens=answer)
    state["request_metadata"] = SimpleNamespace(final_usage_info=used)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
