"""The access log: one JSON object a line for each request, with its id and its costs; no text of anybody, no key."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.door.answers import Answer

log = logging.getLogger("serving.door.access")
log.propagate = False  # these lines have a file of their own, or none

SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
FILE_BYTES, FILES = 64 * 2**20, 4  # what the log of a replica may hold: the oldest goes first
ALIKE = 10  # refusals a second that are alike in key, path and reason and have a line each
NONE = "-"


def request_id(given: bytes | None) -> str:
    """The client's own id of a request (`X-Request-Id`) where it is sane, else a new one."""
    if given is not None and SANE_ID.fullmatch(given):
        return given.decode("ascii")
    return f"req-{secrets.token_hex(16)}"


@dataclass
class Asked:
    """What is known of a request. Times are in seconds of the gateway's clock."""

    id: str
    method: str
    path: str
    started: float
    key: str = NONE  # its id
    model: str = NONE
    status: int = 499  # as nginx: the client left before it was answered
    reason: str | None = None  # code of the error that it was answered with
    reached_engine: bool = False
    left: bool = False  # the client, before its answer had ended
    streamed: bool = False
    first: float | None = None
    last: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def end(self, moment: float, answer: Answer) -> None:
        """Take over what became of it."""
        self.seconds = moment - self.started
        self.first, self.last = answer.first, answer.last
        if answer.status is not None and not self.left:
            self.status = answer.status
        if answer.problem is not None:
            self.reason = answer.problem.code

    def line(self, more: int = 0) -> str:
        """This request as a line of the log. `more`: so many others like it have none."""
        told: dict[str, Any] = {
            "time": self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": self.id,
            "key": self.key,
            "method": self.method,
            "path": self.path,
            "model": self.model,
            "status": self.status,
            "reason": self.reason,
            "ms": round(self.seconds * 1000, 1),
            "first_token_ms": self._first_ms(),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }
        return json.dumps({**told, "more": more} if more else told)

    def _first_ms(self) -> float | None:
        return None if self.first is None or not self.streamed else round((self.first - self.started) * 1000, 1)


class Lines:
    """Writes requests down. Of refusals that are alike in key, path and reason the first ALIKE of a second have a line each,
    and the last one, which then says how many `more` there were: who is refused must not fill the disk.
    """

    def __init__(self) -> None:
        self._alike: dict[tuple[str, str, str], tuple[int, Asked]] = {}  # of this second: how many, the last of them

    def write(self, asked: Asked) -> None:
        if asked.reached_engine or asked.reason is None:
            log.info("%s", asked.line())
            return
        kind = (asked.key, asked.path, asked.reason)
        number = self._alike[kind][0] if kind in self._alike else 0
        self._alike[kind] = (number + 1, asked)
        if number == 0:
            asyncio.get_running_loop().call_later(1.0, self._end, kind)
        if number < ALIKE:
            log.info("%s", asked.line())

    def _end(self, kind: tuple[str, str, str]) -> None:
        """A second is over."""
        number, last = self._alike.pop(kind)
        if number > ALIKE:
            log.info("%s", last.line(more=number - ALIKE - 1))


def open_file(folder: str | Path, name: str) -> Path:
    """Write the log to `folder/name.jsonl` from now on; it is turned over before it grows large."""
    path = Path(folder) / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return path


def rays_logs() -> str:
    """Where Serve keeps the logs of this node's replicas: Ray's dashboard shows them, and what collects Ray's logs finds them."""
    from ray.serve._private.logging_utils import get_serve_logs_dir

    return str(get_serve_logs_dir())
