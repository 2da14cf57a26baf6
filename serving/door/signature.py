"""`system_fingerprint` of answers, where a model and its adapters answer from one engine."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

from serving.door.answers import App, Receive, Send
from serving.launch import Served, system_fingerprint

# The adapter that answers the request at hand. A list of one, as vLLM's tasks of one request see the same list, while a
# value that one of them sets would be its own.
_ADAPTER: ContextVar[list[str]] = ContextVar("adapter")


def signed(app: App, routes: list[Any], served: Served) -> App:
    """`app` with answers that tell the adapter they came from. `routes` are vLLM's objects that answer, each of which has
    one fingerprint for all its answers.
    """
    fingerprints = {name: system_fingerprint(*served.fingerprints(name)) for name in served.names}
    for route in routes:
        route.__class__ = _signing(type(route), fingerprints, served.name)

    async def call(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        _ADAPTER.set([served.name])
        await app(scope, receive, send)

    return call


def _signing(kind: type, fingerprints: dict[str, str], base: str) -> type:
    def told(_: Any) -> str:
        return fingerprints[_ADAPTER.get([base])[0]]

    def find(self: Any, *args: Any, **kwargs: Any) -> Any:
        lora = kind._maybe_get_adapters(self, *args, **kwargs)  # type: ignore[attr-defined] # of each of vLLM's routes
        _ADAPTER.get([base])[0] = base if lora is None else lora.lora_name
        return lora

    return type(kind.__name__, (kind,), {"system_fingerprint": property(told), "_maybe_get_adapters": find})
