"""Runs calibration rows through a model: as a whole, or block by block, each seeing what the changed blocks before it give."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from manta.compress.calibration import BATCH
from manta.compress.pruning.cutting import Loaded, blocks

if TYPE_CHECKING:
    import numpy as np


class _Reached(BaseException):
    """The first block was reached: what lies behind it need not be computed."""


def batches(rows: np.ndarray) -> Iterator[Any]:
    """The rows in order as int64 tensors (batch, seq)."""
    import torch

    yield from torch.from_numpy(rows).long().split(BATCH)


def forward(loaded: Loaded, rows: np.ndarray) -> Iterator[Any]:
    """The model's output for each batch, without gradients; hooks see what passes."""
    yield from (_step(loaded, tokens) for tokens in batches(rows))


def _step(loaded: Loaded, tokens: Any) -> Any:
    import torch

    with torch.no_grad():
        return loaded.model(
            input_ids=tokens, use_cache=False
        )  # kept keys would be seen again by a block that runs twice


@contextlib.contextmanager
def hooked(hooks: Sequence[tuple[Any, Callable[[Any, Any], None]]]) -> Iterator[None]:
    """Call each function with (input, output) of its module whenever that has run; first elements where they are tuples."""

    def adapted(see: Callable[[Any, Any], None]) -> Any:
        return lambda _, given, result: see(given[0], result[0] if isinstance(result, tuple) else result)

    handles = [module.register_forward_hook(adapted(see)) for module, see in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def walk(loaded: Loaded, rows: np.ndarray, visit: Callable[[int, Any, Callable[[], Any]], None]) -> None:
    """Call `visit(number, block, run)` for each block in turn; `run()` puts all rows through the block as it is then.

    What `visit` hooks on the block's layers sees them, and may change weights afterwards: the next block reads what the
    changed one gives. Needs the block's inputs of all rows, (rows, seq, hidden) float32.
    """
    import torch

    states, contexts = _inputs(loaded, rows)

    def run(block: Any) -> list[Any]:
        found = []
        for state, (more, named) in zip(states, contexts, strict=True):
            with torch.no_grad():
                result = block(state, *more, **named)
            found.append(result[0] if isinstance(result, tuple) else result)
        return found

    for number, block in enumerate(blocks(loaded)):
        visit(number, block, functools.partial(run, block))
        states = run(block)


def _inputs(loaded: Loaded, rows: np.ndarray) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """What the first block is given for each batch: its states, and everything else."""
    states, contexts = [], []

    def catch(module: Any, given: Any, named: Any) -> None:
        del module
        states.append(given[0])
        contexts.append((given[1:], named))
        raise _Reached

    handle = blocks(loaded)[0].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for tokens in batches(rows):
            with contextlib.suppress(_Reached):
                _step(loaded, tokens)
    finally:
        handle.remove()
    return states, contexts
