"""What a replica has to do and how it gets on: the figures that the number of replicas follows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 30.0  # first tokens older than this say nothing about now


class Job:
    """One request at work. `tokens`: about how many its prompt and answer have, as far as the request says."""

    def __init__(self, load: Load, tokens: int):
        self.tokens = tokens
        self._load = load
        self._started = load.clock()
        self._streams = True
        self._first = True
        load.requests += 1
        load.tokens += tokens

    def piece(self) -> None:
        """A piece of a stream went out, which is a token or a few."""
        if self._first:
            self._first = False
            self._load.first_token(self._started)
        if self.tokens > 0:
            self.tokens -= 1
            self._load.tokens -= 1

    def end(self) -> None:
        self._load.requests -= 1
        self._load.tokens -= self.tokens


class Load:
    """Requests and tokens that are not done, and how long streams waited for their first token of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.requests = 0
        self.tokens = 0
        self._firsts: deque[tuple[float, float]] = deque(maxlen=1000)  # when, seconds that it took

    def first_token(self, started: float) -> None:
        moment = self.clock()
        self._firsts.append((moment, moment - started))

    def figures(self) -> dict[str, float]:
        """`requests` and `tokens` now; `ttft_ms`: the mean of the last WINDOW_SECONDS, 0 where there was none."""
        while self._firsts and self._firsts[0][0] < self.clock() - WINDOW_SECONDS:
            self._firsts.popleft()
        took = [seconds for _, seconds in self._firsts]
        mean = 1000 * sum(took) / len(took) if took else 0.0
        return {"requests": float(self.requests), "tokens": float(self.tokens), "ttft_ms": mean}
