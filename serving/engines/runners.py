"""What runs a model inside a replica: one class for each kind of engine, all of one shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from serving.door.answers import App
from serving.launch import Served


class Runner(Protocol):
    """One model at work. `app` is the ASGI application of its routes."""

    app: App

    async def alive(self) -> bool:
        """Whether it can still answer at all."""

    async def generate_once(self) -> None:
        """Give one small but real answer. Raises when that does not work."""

    def process_ids(self) -> list[int]:
        """Its own processes, besides the one this is called in."""

    def stop(self) -> None:
        """End it, and its processes."""


async def _vllm(served: Served) -> Runner:
    """Decoders that write text."""
    from serving.engines.vllm import VLLM

    return await VLLM.start(served)


async def _transformers(served: Served) -> Runner:
    """Encoders, encoder-decoders and classifiers, which answer tasks."""
    from serving.tasks.runner import Transformers

    return await Transformers.start(served)


# Served.runner -> what starts it, which may take long.
RUNNERS: dict[str, Callable[[Served], Awaitable[Runner]]] = {"vllm": _vllm, "transformers": _transformers}
