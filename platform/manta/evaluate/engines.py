"""The two things evaluation asks of an engine, and the engines that can do them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Engine(NamedTuple):
    """A loaded model.

    `nll(rows)`: rows of token ids -> for each row the sum of -ln p(token | tokens before it), in nats, over all but its
    first token. `generate(prompts, limits)`: prompts as token ids, and how many new tokens each may get -> the new
    tokens, greedily chosen, up to and with one that ends an answer.
    """

    nll: Callable[[Sequence[Sequence[int]]], list[float]]
    generate: Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]


# name -> module with `load(model, dtype, max_tokens) -> Engine`; imported by the process that uses it, since each is heavy.
ENGINES = {"vllm": "manta.evaluate.vllm_engine", "transformers": "manta.evaluate.hf_engine"}


def load(name: str, model: Path, dtype: str, max_tokens: int) -> Engine:
    """Load the Hugging Face directory `model` into the engine `name` for sequences of up to `max_tokens` in all."""
    engine: Engine = importlib.import_module(ENGINES[name]).load(model, dtype, max_tokens)
    return engine
