"""Runs one function over many work items with Ray Data, one task an item, and keeps the meaning of what goes wrong."""

from __future__ import annotations

import itertools
import json
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from manta.errors import StageFailed

Item = dict[str, Any]
# Items that Ray Data plans together, for each that runs at once: it plans for minutes before it starts the first of
# many thousands, and items that are made as they are wanted need not all be in memory.
WINDOW = 64


def spread(function: Callable[[Item], Item], items: Iterable[Item], at_once: int) -> Iterator[Item]:
    """Yield `function(item)` for every item, as they finish, `at_once` of them running. Items and results are JSON data.

    Every item is a block of its own: Ray Data would otherwise read many small items in one task, on one core. Ray must
    be connected. An OSError in a task is raised here with its errno; anything else becomes StageFailed.
    """
    waiting = iter(items)
    while window := list(itertools.islice(waiting, WINDOW * at_once)):
        yield from _spread(function, window, at_once)


def _spread(function: Callable[[Item], Item], items: list[Item], at_once: int) -> Iterator[Item]:
    import ray.data

    # Ray Data's own account of each execution stays in its log file; people get Manta's progress.
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)

    def attempt(row: dict[str, str]) -> dict[str, str]:
        try:
            return {"result": json.dumps(function(json.loads(row["item"]))), "failure": ""}
        except Exception as error:  # noqa: BLE001 - Ray Data would hide its type: it is raised again in the driver
            return {"result": "", "failure": json.dumps(describe(error))}

    rows = [{"item": json.dumps(item)} for item in items]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    results = blocks.map(attempt, compute=ray.data.TaskPoolStrategy(size=min(at_once, len(rows))))
    try:
        for row in results.iter_rows():
            if row["failure"]:
                raise rebuild(json.loads(row["failure"]))
            yield json.loads(row["result"])
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageFailed(f"Ray lost a task: {reason}; run the stage again to carry on") from error


def describe(error: Exception) -> dict[str, Any]:
    """An error as JSON data: type, text, where it was raised, and what an OSError says of its cause."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{place[0].filename.rpartition('/')[2]}:{place[0].lineno}" if place else "unknown"
    system = [error.errno, error.strerror, str(error.filename)] if isinstance(error, OSError) and error.errno else None
    return {"type": type(error).__name__, "text": str(error), "where": where, "system": system}


def rebuild(described: dict[str, Any]) -> Exception:
    """The error to raise in the driver for one that a task described."""
    if described["system"]:
        return OSError(*described["system"])
    reason = f"{described['type']}: {described['text']}"
    return StageFailed(f"a task failed ({described['where']}): {reason}; run the stage again to carry on")
