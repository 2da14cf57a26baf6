"""What a Front tells Serve's router when it asks for a replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Wish:
    """Replicas are named by Serve's unique ids."""

    busy: Mapping[str, int]  # requests that this Front has on their way to each
    lost: Mapping[str, float]  # those that failed it -> until when (time.monotonic) they are not to be tried
    prefix: bytes = b""  # how the prompt begins
