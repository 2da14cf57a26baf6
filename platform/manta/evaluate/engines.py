"""What evaluation asks of an engine, and the engines that can do them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Engine(NamedTuple):
    """A loaded model.

    `logs(rows)`: rows of token ids -> for each row ln p(token | tokens before it), in nats, of all its tokens but the
    first. `generate(prompts, limits)`: prompts as token ids, and how many new tokens each may get -> the new
    tokens, greedily chosen, up to and with one that ends an answer.
    """

    logs: Callable[[Sequence[Sequence[int]]], list[list[float]]]
    generate: Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]


class Judge(NamedTuple):
    """A loaded model that is asked about each token of a row.

    `believe(rows)`: rows of token ids -> for each row the log-probabilities (nats) of its tokens but the first, and the
    likeliest token at each of these places. `generate` is as an Engine's.
    """

    believe: Callable[[Sequence[Sequence[int]]], list[tuple[list[float], list[int]]]]
    generate: Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]


class Sampling(NamedTuple):
    """How answers are drawn: at `temperature` (0: the likeliest token each time) among the likeliest tokens that hold
    `top_p` of the probability. `beams` are an encoder-decoder's, which takes its likeliest answers."""

    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1


# `author(prompts, limits, seeds)`: prompts as token ids, how many new tokens each may get and what it is drawn by -> for each
# the new tokens, up to and with one that ends an answer, and whether there is one.
Author = Callable[[Sequence[Sequence[int]], Sequence[int], Sequence[int]], list[tuple[list[int], bool]]]


# `write(prompts, count)`: prompts of one length as token ids, and how many new tokens each gets, whatever they say -> these,
# greedily chosen. What is timed.
Writer = Callable[[Sequence[Sequence[int]], int], list[list[int]]]

# name -> module with `load(model, dtype, max_tokens) -> Engine`, `judge`, likewise, `writer`, `author`; imported by the process that uses it, since each is heavy.
ENGINES = {"vllm": "manta.evaluate.vllm_engine", "transformers": "manta.evaluate.hf_engine"}


def load(name: str, model: Path, dtype: str, max_tokens: int) -> Engine:
    """Load the Hugging Face directory `model` into the engine `name` for sequences of up to `max_tokens` in all."""
    engine: Engine = importlib.import_module(ENGINES[name]).load(model, dtype, max_tokens)
    return engine


def judge(name: str, model: Path, dtype: str, max_tokens: int) -> Judge:
    """As `load`, for what is asked about single tokens."""
    made: Judge = importlib.import_module(ENGINES[name]).judge(model, dtype, max_tokens)
    return made


def writer(name: str, model: Path, dtype: str, max_tokens: int, at_once: int) -> Writer:
    """As `load`, for what is timed: `at_once` sequences are computed together."""
    made: Writer = importlib.import_module(ENGINES[name]).writer(model, dtype, max_tokens, at_once)
    return made


def author(name: str, model: Path, dtype: str, max_tokens: int, how: Sampling) -> Author:
    """As `load`, for what a student is to learn."""
    made: Author = importlib.import_module(ENGINES[name]).author(model, dtype, max_tokens, how)
    return made
