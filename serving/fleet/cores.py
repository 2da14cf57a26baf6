"""Which cores a replica works on: replicas of one machine get different ones, so that their threads do not meet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import accumulate

from serving.launch import Served


def first_cores(served: Iterable[Served]) -> dict[str, int]:
    """Where the cores of each deployment's replicas begin, were all of them on one machine.

    A model's second slot lies behind the first slots of all: whichever is in use, no two ever meet.
    """
    served = list(served)
    widths: dict[str, int] = {}
    for one in served:
        widths[one.name] = max(widths.get(one.name, 0), one.max_replicas * one.cpus)
    begin = dict(zip(widths, accumulate(widths.values(), initial=0), strict=False))
    return {one.deployment: begin[one.name] + (sum(widths.values()) if one.slot else 0) for one in served}


def cores_of(place: int, begin: int, each: int, available: Sequence[int]) -> list[int]:
    """The cores of the replica in the given place of its model on this machine; none where there are not enough."""
    first = begin + place * each
    return list(available[first : first + each]) if first + each <= len(available) else []


def bind(place: int, begin: int, each: int) -> list[int]:
    """Bind this process, and whatever it starts from now on, to its cores. Returns them."""
    mine = cores_of(place, begin, each, sorted(os.sched_getaffinity(0)))
    if mine:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), mine)
    return mine
