"""What keeps one client from harming the others: keys compared in constant time, and a rate for each key."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Sequence

ANONYMOUS = "anonymous"


def identify(authorization: str | None, key_hashes: Sequence[str]) -> str | None:
    """Which client an `Authorization` header names: a short id of its key, or None when no key fits.

    Every hash is compared, in constant time, so that the answer's delay tells nothing about the keys.
    """
    if not key_hashes:
        return ANONYMOUS
    scheme, _, token = (authorization or "").partition(" ")
    offered = hashlib.sha256(token.strip().encode("latin-1", "replace")).hexdigest()
    found = None
    for known in key_hashes:
        if hmac.compare_digest(offered, known):
            found = known[:12]
    return found if scheme.lower() == "bearer" else None


class Rate:
    """A token bucket for each client: `per_minute` requests at once, refilled evenly over a minute."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic):
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # client -> (requests left, when that was)

    def take(self, client: str) -> int:
        """Take one request from the client's bucket: 0 if there was one, else the seconds until there is."""
        if self.per_minute is None:
            return 0
        moment = self._clock()
        left, since = self._buckets.get(client, (float(self.per_minute), moment))
        left = min(float(self.per_minute), left + (moment - since) * self.per_minute / 60)
        if left < 1:
            self._buckets[client] = (left, moment)
            return max(1, math.ceil((1 - left) * 60 / self.per_minute))
        self._buckets[client] = (left - 1, moment)
        return 0
