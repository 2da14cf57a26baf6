"""The replicas of an endpoint's models, as one application: each request goes to a replica of its model, and to another
where that one fails before anything was sent to the client. Ray Serve knows the replicas and picks one: see routing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from serving.canary.arms import CANARY, STABLE
from serving.canary.trial import PATIENCE_SECONDS, Meters, Trial
from serving.canary.watch import Declined, Watch
from serving.door.answers import DOWN, FATAL, STREAM, Header, Receive, Refused, Send
from serving.door.routes import OPENAPI_PATH
from serving.fleet.private import AT_WORK, MODEL, PROBE, TOKENS, UNAVAILABLE, USAGE, USAGE_EVENT, read_usage
from serving.fleet.relay import Connection, Head, Lines, Lost, Place
from serving.fleet.scrape import merged
from serving.fleet.team import Handle, Team
from serving.launch import Canary, Launch

log = logging.getLogger("serving")

ALIVE_SECONDS, PROBE_SECONDS = 1.0, 5.0  # how long it may take to find a replica for a health check, for a probe
MOST_LOSSES = 2  # a request that so many replicas died of is not given to a third
CARRIED = frozenset({b"content-type", b"accept", b"x-request-id", b"traceparent", b"tracestate"})


class Request(NamedTuple):
    """What a client wants. `gone` is done when it has left, or its time is over."""

    scope: MutableMapping[str, Any]
    body: bytes
    gone: asyncio.Task[None]


class BrokenOff(Exception):
    """A replica went away in the middle of its answer."""


class Fleet:
    """The `app` of a Front's Gateway, and what that asks about health. `handles`: name of a model -> Serve's handle."""

    def __init__(self, launch: Launch, handles: Mapping[str, Handle]):
        self.launch = launch
        self.teams = {one.name: Team(one, handles[one.name], launch.routing == "prefix") for one in launch.served}
        self.trials: dict[str, Trial] = {}  # model -> the comparison of its two versions
        self.lines = Lines()
        self._meters: Meters | None = None

    def compare(self, canary: Canary | None, handles: Mapping[str, Handle]) -> None:
        """From now on give the canary its share, and count anew; with None there is none. `handles`: model -> its canary's."""
        self.trials, self._meters = {}, None
        if canary is None:
            return
        self._meters = Meters()
        for one in canary.served:
            team = Team(one, handles[one.name], self.launch.routing == "prefix")
            versions = {STABLE: self.teams[one.name].served, CANARY: one}
            self.trials[one.name] = Trial(versions, team, canary.share, self.launch.request_seconds, self._meters)

    @property
    def all_teams(self) -> list[Team]:
        """Of all versions."""
        return [*self.teams.values(), *(trial.team for trial in self.trials.values())]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Raises Refused where there is no replica in time, BrokenOff where one went away in the middle of its answer."""
        if scope["path"] == "/metrics":
            return await self._tell_metrics(send)
        if scope["path"] == OPENAPI_PATH:
            return await self._tell_routes(send)
        served = self.launch.find(scope["state"]["model"])
        assert served is not None, "the gateway lets through only models that are served"
        body = (await receive())["body"]
        request = Request(scope, body, asyncio.create_task(_disconnect(receive)))
        team, trial = self.teams[served.name], self.trials.get(served.name)
        try:
            if trial is not None and trial.compares(scope["state"]["model"]):
                await self._ask_either(trial, team, request, send)
            else:
                await self._ask(team, request, send)
        finally:
            request.gone.cancel()

    async def _ask_either(self, trial: Trial, team: Team, request: Request, send: Send) -> None:
        """Have one of two versions answer, and count how it did. Where the new one fails before anything was sent, the old
        one (`team`) answers: that counts against the new one, and not for the old one, which was given no choice."""
        state, gone = request.scope["state"], request.gone
        losses, refused, drawn = 0, False, trial.draws()
        if drawn:
            watch = Watch(send, picky=True)
            until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
            try:
                await self._once(trial.team, until, request, watch)
            except Refused:
                failed = trial.met
            except (Lost, Declined) as failure:
                trial.met = True
                refused = isinstance(failure, Declined) and failure.status < 500
                losses = int(isinstance(failure, Lost) and failure.at_work)
                failed = not refused
            except BrokenOff:
                trial.count(CANARY, watch, state, gone.done())
                raise
            else:
                trial.met = trial.met or watch.ended
                return trial.count(CANARY, watch, state, gone.done())
            if gone.done():
                return trial.count(CANARY, watch, state, True)
            if failed:
                trial.fail()
        watch = Watch(send)
        try:
            await self._ask(team, request, watch, losses)
        except (Refused, BrokenOff):
            if not drawn:
                trial.count(STABLE, watch, state, gone.done())
            raise
        if not drawn:
            trial.count(STABLE, watch, state, gone.done())
        if refused and not watch.refused and not watch.failed:  # the request was not at fault
            trial.fail()

    async def _ask(self, team: Team, request: Request, send: Send, losses: int = 0) -> None:
        """Have a replica answer, and another one where that is lost before it began; at most MOST_LOSSES that had it,
        of which there were some already."""
        until = asyncio.get_running_loop().time() + self.launch.hold_seconds
        while not request.gone.done():
            try:
                return await self._once(team, until, request, send)
            except Lost as lost:
                if request.gone.done():
                    return
                losses += lost.at_work
                if losses == MOST_LOSSES:
                    raise Refused(FATAL) from lost

    async def _once(self, team: Team, until: float, request: Request, send: Send) -> None:
        """Have one replica answer. Raises Refused where there is none `until` then, Lost where it fails before it began."""
        scope, body, gone = request
        state = scope["state"]
        headers = [item for item in scope["headers"] if item[0] in CARRIED]
        headers += [(TOKENS, b"%d" % state["tokens"]), (MODEL, state["model"].encode())]
        found = await team.choose(until, body, gone)
        if found is None:
            if gone.done():
                return
            raise Refused(DOWN)
        replica, place = found
        team.busy[replica] += 1
        try:
            async with self._answer(place, scope["method"], scope["path"], headers, body, gone) as (connection, head):
                await _carry(connection, head, state, send)
        except Lost:
            if not gone.done():
                log.warning("a replica of %s is lost", team.served.name)
                self._lose(team, replica, place)
            raise
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
        teams = self.all_teams
        told = await asyncio.gather(*(team.metrics() for team in teams))
        pages = {
            (team.served.name, name): page for team, found in zip(teams, told, strict=True) for name, page in found
        }
        of_versions = b"" if self._meters is None else self._meters.text()
        fields = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": merged(pages).encode() + of_versions})


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
