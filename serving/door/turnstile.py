"""What a request's line and headers are enough to refuse: answered at once, before a body is read or a task is made for it.

Crowds that mean no good are met here. It decides as the gateway does, which decides on everything else.
"""

from __future__ import annotations

import functools
import http
import time
from collections.abc import Callable, Sequence

from serving.door import access, answers, origins
from serving.door.access import Asked
from serving.door.answers import Header, Problem
from serving.door.keys import ANONYMOUS, Key, Ring, Unreadable
from serving.door.limits import Limits
from serving.door.page import files
from serving.door.routes import PROBES, ROUTES
from serving.launch import Launch

OPEN = frozenset({*PROBES, *files()})  # paths that need no key


class Turnstile:
    """Called with a request's method, target and headers: the whole answer to one that is refused, None for all others.

    `is_full`: whether there is no place for any more work. `note` counts a request that was answered, and logs it.
    """

    def __init__(
        self,
        launch: Launch,
        ring: Ring,
        limits: Limits,
        is_full: Callable[[], bool],
        note: Callable[[Asked], None],
        headers: Sequence[Header],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.launch = launch
        self.ring = ring
        self.limits = limits
        self._is_full = is_full
        self._note = note
        self._headers = headers
        self._clock = clock

    def __call__(self, method: bytes, target: bytes, headers: Sequence[Header]) -> bytes | None:
        path = target.partition(b"?")[0].decode("latin-1")
        if not path.startswith("/") or "%" in path or path in OPEN or method in (b"OPTIONS", b"HEAD"):
            return None
        given = dict(headers)
        started = self._clock()
        try:
            if not self.ring.is_fresh:  # the gateway can wait for it
                return None
            key = self.ring.find(text(given.get(b"authorization")))
        except Unreadable:
            return None
        problem = answers.UNAUTHORIZED if key is None else self._problem(key, method.decode("latin-1"), path, given)
        if problem is None:
            return None
        asked = Asked(
            access.request_id(given.get(b"x-request-id")), method.decode("latin-1")[:16], label(path), started
        )
        asked.status, asked.reason = problem.status, problem.code
        asked.seconds = self._clock() - started
        fields = [*self._headers, (b"x-request-id", asked.id.encode())]
        fields += origins.headers(given.get(b"origin"), self.launch.cors_origins)
        if key is not None:
            asked.key = key.id
            fields += self.limits.headers(key) if problem.status == 429 else []
        self._note(asked)
        head, body = _worded(problem)
        return head + b"".join([b"%b: %b\r\n" % field for field in fields]) + b"\r\n" + body

    def _problem(self, key: Key, method: str, path: str, given: dict[bytes, bytes]) -> Problem | None:
        """With what work is refused that a right key asks for."""
        if method != "POST" or ROUTES.get(path) != method or (key is ANONYMOUS and b"origin" in given):
            return None
        if self.limits.requests.is_spent(key.id, key.requests_per_minute):
            return self.limits.take_request(key)
        full = self._is_full()
        large = answers.declares_more(given, self.launch.max_body_bytes)
        if not full and not large:
            return None  # and the gateway counts it
        return self.limits.take_request(key) or (
            answers.BUSY if full else answers.too_large(self.launch.max_body_bytes)
        )


@functools.lru_cache(256)
def _worded(problem: Problem) -> tuple[bytes, bytes]:
    """The first line and the header fields of an error answer, which ends its connection, and its body."""
    fields, body = answers.worded(problem)
    fields += ((b"content-length", str(len(body)).encode()),)
    if (b"connection", b"close") not in fields:
        fields += ((b"connection", b"close"),)
    line = f"HTTP/1.1 {problem.status} {http.HTTPStatus(problem.status).phrase}\r\n".encode()
    return line + b"".join([b"%b: %b\r\n" % field for field in fields]), body


def label(path: str) -> str:
    """What metrics and the log call a path: clients cannot make up names."""
    return path if path in ROUTES or path in PROBES else "page" if path in files() else "other"


def text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
