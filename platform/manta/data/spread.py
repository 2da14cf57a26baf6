"""Runs one function over many work items with Ray Data, one task an item, and explains what went wrong in a task."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from manta.errors import MantaError, StageFailed

Item = dict[str, Any]


def spread(function: Callable[[Item], Item], items: Sequence[Item], at_once: int) -> Iterator[Item]:
    """Yield `function(item)` for every item, as they finish, `at_once` of them running. Items and results are JSON data.

    Every item is a block of its own: Ray Data would otherwise read many small items in one task, on one core. Ray must
    be connected. Raises what the function raised where it is an OSError or Manta's own, else StageFailed.
    """
    if not items:
        return
    import ray.data

    # Ray Data's own account of each execution stays in its log file; people get Manta's progress.
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)
    rows = [{"item": json.dumps(item)} for item in items]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    results = blocks.map(
        lambda row: {"result": json.dumps(function(json.loads(row["item"])))},
        compute=ray.data.TaskPoolStrategy(size=at_once),
    )
    try:
        for row in results.iter_rows():
            yield json.loads(row["result"])
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as error:
        raise explain(error) from error


def explain(error: BaseException) -> Exception:
    """The error of the task's own that a Ray error wraps, as an exception the stage knows how to report."""
    innermost = error
    while (cause := getattr(innermost, "cause", None) or innermost.__cause__) is not None:
        innermost = cause
        if isinstance(cause, (MantaError, OSError)) and not type(cause).__module__.startswith("ray"):
            return cause
    reason = (str(innermost).strip().splitlines() or [""])[-1]
    return StageFailed(f"a task failed: {type(innermost).__name__}: {reason}; run the stage again to carry on")
