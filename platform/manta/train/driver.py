"""A worker's line to the driver: rank 0 reports and tells; the answers say whether the driver wants to stop."""

from __future__ import annotations

import time
from typing import Any

from manta.train.checkpoint import State
from manta.train.job import Job

MAILBOX_SECONDS = 0.25  # between reports; a stop wish is seen with the report after it


class Driver:
    """Nothing here waits for the driver. Other ranks than 0 send nothing, `tell` aside, and see no wish."""

    def __init__(self, job: Job, rank: int, state: State | None):
        self.job, self.speaks, self._sent = job, rank == 0, 0.0
        self._answers: list[Any] = []
        if state is not None:
            self.note(f"carrying on from the checkpoint of step {state.step}")

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if self.speaks:
            self.job.mailbox.put.remote({"note": text})

    def tell(self, what: str, text: str) -> None:
        """Tell the user something that several ranks may say: once for each `what`. From any thread, on any rank."""
        self.job.mailbox.put.remote({"note": text, "once": what})

    def report(self, step: int, loss: float, speed: float, wait: float) -> None:
        """Say how far training is: `speed` in tokens a second, `wait` as a share of the step."""
        if not self.speaks or (time.monotonic() - self._sent < MAILBOX_SECONDS and step < self.job.steps):
            return
        self._sent = time.monotonic()
        update = {
            "done": step,
            "total": self.job.steps,
            "unit": "steps",
            "loss": loss,
            "tokens_per_s": speed,
            "data_wait": wait,
        }
        self._answers.append(self.job.mailbox.put.remote({"update": update}))

    def stop_wished(self) -> bool:
        """Whether an answer that has arrived says so."""
        import ray

        ready, self._answers = (
            ray.wait(self._answers, num_returns=len(self._answers), timeout=0) if self._answers else ([], [])
        )
        return any(ray.get(ready))
