"""What an endpoint says of its models: the list of them, and what answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from serving.door.answers import Header
from serving.launch import Launch
from serving.tasks import TASKS

FINGERPRINT_HEADER = b"x-manta-fingerprint"
BASE_FINGERPRINT_HEADER = b"x-manta-base-fingerprint"  # of the model below, where an adapter answers


def tasks(launch: Launch, may_ask: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The entries of /v1/tasks: of each task that a client may ask, its models and what stands for a gap to the first."""
    found = []
    for name in TASKS:
        models = [one for one in launch.served if name in one.tasks and may_ask(one.name)]
        if models:
            mask = {"mask_token": models[0].mask_token} if models[0].mask_token is not None else {}
            found.append({"id": name, "object": "task", "models": [one.name for one in models], **mask})
    return found


def fingerprint_headers(fingerprint: str, adapter: str | None = None) -> list[Header]:
    """What answered: a model, or an adapter on one."""
    if adapter is None:
        return [(FINGERPRINT_HEADER, fingerprint.encode())]
    return [(FINGERPRINT_HEADER, adapter.encode()), (BASE_FINGERPRINT_HEADER, fingerprint.encode())]


def listing(launch: Launch) -> list[dict[str, Any]]:
    """The entries of /v1/models in the shape of OpenAI and vLLM: `parent` is what an adapter is of."""
    plain = {"object": "model", "created": int(time.time()), "owned_by": "manta"}
    found = []
    for one in launch.served:
        length = {} if one.longest is None else {"max_model_len": one.longest}
        for name in one.names:
            parent = None if name == one.name else one.name
            found.append({"id": name, **plain, "root": name, "parent": parent, **length})
    return found
