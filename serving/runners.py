"""What runs a model of an endpoint: vLLM where text is generated, Transformers where tasks are answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def vllm() -> Any:
    """Decoders that write text."""
    from serving.engine import VLLM

    return VLLM


def transformers() -> Any:
    """Encoders, encoder-decoders, and classifiers on decoders."""
    from serving.tasks.runner import Transformers

    return Transformers


# `Served.runner` -> the class: `await start(served)`, `app`, `alive`, `generate_once`, `process_ids`, `stop`.
RUNNERS: dict[str, Callable[[], Any]] = {"vllm": vllm, "transformers": transformers}
