"""What keys have used at all Fronts of an endpoint: told about once a second, so that a limit holds over all of them.

No request waits for it. Within such a second each Front lets a key have what is left of its limit as far as it knows; what
that was too much, the key waits for afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from serving.door.limits import Limits, Used

log = logging.getLogger("serving")

TELL_SECONDS = 1.0
SILENT_ROUNDS = 60  # of the others: a Front that told nothing for so long is gone


class Ledger:
    """What each Front has yet to hear of. A Ray actor of the endpoint, which its Fronts start; or in the same process, for one."""

    def __init__(self) -> None:
        self._unheard: dict[str, Used] = {}  # Front -> what others have used since it last told
        self._silent: dict[str, int] = {}

    def tell(self, front: str, used: Used) -> Used:
        """Take what a Front's keys have used since it last told; return what they have used elsewhere meanwhile."""
        heard = self._unheard.pop(front, {})
        for other, waiting in list(self._unheard.items()):
            self._silent[other] += bool(used)
            if self._silent[other] > SILENT_ROUNDS:
                del self._unheard[other], self._silent[other]
                continue
            for key, amounts in used.items():
                before = waiting.get(key, (0, 0))
                waiting[key] = (before[0] + amounts[0], before[1] + amounts[1])
        self._unheard[front] = {}
        self._silent[front] = 0
        return heard


def actor(application: str) -> Any:
    """The endpoint's ledger, started where there is none. It ends with the Front that started it; another then starts one."""
    import ray

    options = {"name": f"ledger-{application}", "namespace": "manta", "get_if_exists": True, "num_cpus": 0}
    return ray.remote(Ledger).options(**options).remote()


async def share(front: str, limits: Callable[[], Limits], find: Callable[[], Any]) -> None:
    """Tell the ledger again and again, for as long as this is not cancelled. `limits` are those of now; `find` gets the actor."""
    from ray.exceptions import RayError

    ledger = None
    while True:
        await asyncio.sleep(TELL_SECONDS)
        used = limits().take_used()
        try:
            ledger = ledger or find()
            limits().charge(await ledger.tell.remote(front, used))
        except (RayError, ValueError) as error:  # it went with its Front; ValueError: it is going just now
            log.warning("limits are not shared between Fronts at the moment: %s", error)
            ledger = None
