"""What keeps one client from harming the others: requests and tokens a minute for each key, as OpenAI's headers tell them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from serving.door.answers import Problem, over_rate
from serving.door.keys import Key

MAX_TEXTS = (
    128  # that one request may have written, as OpenAI's `n`; vLLM alone would take 16,384, and any list of prompts
)
BYTES_PER_TOKEN = 4  # of a prompt, before it is known: what English has in common tokenizers


class Rate:
    """A token bucket for each client: a minute's amount at once, refilled evenly over a minute.

    What is taken may turn out to be more or less (`settle`); who has overdrawn waits until that is paid back.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic):
        self.per_minute = per_minute  # of clients without a limit of their own; None: no limit
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # client -> (amount left, when that was)

    def take(self, client: str, amount: int = 1, own: int | None = None) -> int:
        """Take an amount from the client's bucket: 0 if there was enough, else the seconds until there is.

        `own` is the client's own limit a minute. More than the limit is never waited for: a full bucket is enough.
        """
        limit = own or self.per_minute
        if limit is None:
            return 0
        left, moment = self._left(client, limit), self._clock()
        short = min(amount, limit) - left
        if short > 0:
            self._buckets[client] = (left, moment)
            return max(1, math.ceil(short * 60 / limit))
        self._buckets[client] = (left - amount, moment)
        return 0

    def is_spent(self, client: str, own: int | None = None) -> bool:
        """Whether not even one can be taken."""
        limit = own or self.per_minute
        return limit is not None and self._left(client, limit) < 1

    def settle(self, client: str, more: int, own: int | None = None) -> None:
        """Take `more` besides, whatever is left; negative gives back."""
        limit = own or self.per_minute
        if limit is not None and more:
            self._buckets[client] = (min(float(limit), self._left(client, limit) - more), self._clock())

    def headers(self, client: str, what: str, own: int | None = None) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-*` headers for `what` (requests, tokens); none where there is no limit."""
        limit = own or self.per_minute
        if limit is None:
            return []
        left = self._left(client, limit)
        told = {
            "limit": str(limit),
            "remaining": str(max(0, math.floor(left))),
            "reset": _span((limit - left) * 60 / limit),
        }
        return [(f"x-ratelimit-{name}-{what}".encode(), value.encode()) for name, value in told.items()]

    def _left(self, client: str, limit: int) -> float:
        moment = self._clock()
        left, since = self._buckets.get(client, (float(limit), moment))
        return min(float(limit), left + (moment - since) * limit / 60)


Who = tuple[str, int | None, int | None]  # a key's id and its own limits: requests and tokens a minute
Used = dict[Who, tuple[int, int]]  # requests and tokens


class Limits:
    """Requests and tokens a minute. A request is counted when it comes; its tokens are reserved, then settled by what it used.

    Where others count requests of the same keys, each tells what was used (`take_used`) and is told of theirs (`charge`).
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.requests = Rate(requests_per_minute, clock)
        self.tokens = Rate(tokens_per_minute, clock)
        self._used: Used = {}

    def take_request(self, key: Key) -> Problem | None:
        """Count one request, or say why it has to wait."""
        wait = self.requests.take(key.id, 1, key.requests_per_minute)
        self._note(key, 0 if wait else 1, 0)
        return self._over("requests", key.requests_per_minute or self.requests.per_minute, wait)

    def reserve(self, key: Key, tokens: int) -> Problem | None:
        """Take tokens, or say why the request has to wait."""
        wait = self.tokens.take(key.id, tokens, key.tokens_per_minute) if tokens else 0
        self._note(key, 0, 0 if wait else tokens)
        return self._over("tokens", key.tokens_per_minute or self.tokens.per_minute, wait)

    def _over(self, what: str, limit: int | None, wait: int) -> Problem | None:
        return over_rate(what, limit, wait) if wait and limit is not None else None

    def settle(self, key: Key, reserved: int, used: int) -> None:
        self.tokens.settle(key.id, used - reserved, key.tokens_per_minute)
        self._note(key, 0, used - reserved)

    def take_used(self) -> Used:
        """What was used here since this was asked last."""
        used, self._used = self._used, {}
        return used

    def charge(self, used: Used) -> None:
        """Take what was used elsewhere."""
        for (key, own_requests, own_tokens), (requests, tokens) in used.items():
            self.requests.settle(key, requests, own_requests)
            self.tokens.settle(key, tokens, own_tokens)

    def _note(self, key: Key, requests: int, tokens: int) -> None:
        who = (key.id, key.requests_per_minute, key.tokens_per_minute)
        before = self._used.get(who, (0, 0))
        self._used[who] = (before[0] + requests, before[1] + tokens)

    def headers(self, key: Key) -> list[tuple[bytes, bytes]]:
        return [
            *self.requests.headers(key.id, "requests", key.requests_per_minute),
            *self.tokens.headers(key.id, "tokens", key.tokens_per_minute),
        ]


def prompt_estimate(body: bytes) -> int:
    """About how many tokens the prompt of a request has."""
    return 1 + len(body) // BYTES_PER_TOKEN


def estimate(body: bytes, asked: Mapping[str, Any]) -> int:
    """About how many tokens a request can use: its prompt, and the longest answer that it asks for, where it says so."""
    if isinstance(asked.get("parameters"), Mapping):  # a task's
        asked = asked["parameters"]
    names = ("max_completion_tokens", "max_tokens", "max_new_tokens")
    longest = next((asked[name] for name in names if _counts(asked.get(name))), 0)
    return prompt_estimate(body) + longest * texts(asked)


def texts(asked: Mapping[str, Any]) -> int:
    """How many texts a request has written: `n` for each of its prompts, of which it may bring a list."""
    prompt = asked.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return prompts * (asked["n"] if _counts(asked.get("n")) else 1)


def _counts(value: object) -> bool:
    """Whether this is a number that a limit can be held against; the engine refuses what is not."""
    return type(value) is int and 0 < value < 1_000_000_000


def _span(seconds: float) -> str:
    """A time as OpenAI writes it: 6m0s, 12s."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
