"""One model's work spread over copies of it by Ray Data: what goes in comes out, each piece once, in order."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from manta.artifact import Resolved
from manta.errors import InputError, MantaError, StageFailed
from manta.evaluate import engines
from manta.evaluate.engines import Engine
from manta.schema import EvaluateRecipe, GenerateRecipe
from manta.storage import Folder
from manta.tasks import COMPARING

PORTIONS = 4  # of the work for each copy: a slow one takes fewer
LARGEST = 256  # pieces of a portion: what a copy that dies has to do again
TRIES = 3  # of a copy that dies, and of its portion

Ask = Callable[[Any], list[Any]]  # pieces of work -> as many results, in their order


class Copies(NamedTuple):
    """`workers` copies of a model, each a process of its own with `threads` CPUs; `memory` is what one takes, in bytes."""

    source: Resolved
    workers: int
    threads: int
    memory: int = 0


def check(recipe: EvaluateRecipe) -> None:
    """Raise InputError for several workers where only one process measures."""
    task, workers = recipe.evaluate.task, recipe.resources.workers
    if workers > 1 and task is not None and task.name in COMPARING:
        raise InputError(
            f"resources.workers = {workers}: one process measures task.name = {task.name!r}: set resources.workers=1"
        )
    if workers > recipe.resources.cpus:
        raise InputError(
            f"resources.workers = {workers} share resources.cpus = {recipe.resources.cpus}, and each needs one: set resources.cpus={workers}"
        )


def of(recipe: EvaluateRecipe | GenerateRecipe, source: Resolved) -> Copies:
    """The copies that a recipe asks for; they share its CPUs."""
    from manta.models.load import model_url

    resources = recipe.resources
    weights = 0 if source.kind == "package" else Folder(model_url(source)).size()
    # As much as measuring in one process takes, but for the second engine.
    return Copies(source, resources.workers, max(1, resources.cpus // resources.workers), 2 * weights + (1 << 30))


def engine(copies: Copies, name: str, dtype: str, max_tokens: int) -> Engine:
    """As `engines.load`, of which each copy has one. Each of the two questions starts the copies anew."""
    arguments = (copies.source, name, dtype, max_tokens)
    return Engine(
        lambda rows: spread(copies, _Logs, arguments, rows),
        lambda prompts, limits: spread(copies, _Generate, arguments, list(zip(prompts, limits, strict=True))),
    )


class _Loaded:
    """A copy: a local directory of the model, in an engine."""

    def __init__(self, source: Resolved, name: str, dtype: str, max_tokens: int):
        from manta.models.load import model_folder

        self.held = model_folder(source)
        self.engine = engines.load(name, self.held.__enter__(), dtype, max_tokens)


class _Logs(_Loaded):
    def __call__(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        return self.engine.logs(rows)


class _Generate(_Loaded):
    def __call__(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[list[int]]:
        return self.engine.generate([prompt for prompt, _ in asked], [limit for _, limit in asked])


def spread(copies: Copies, make: Callable[..., Ask], arguments: tuple[Any, ...], work: Sequence[Any]) -> list[Any]:
    """The result of each piece of `work`, in order: `make(*arguments)` is called once in each copy, its result for portions.

    Ray must be connected. A copy that dies is started again and its portion repeated. Raises the MantaError that a copy
    raised, and StageFailed where copies went on dying or a piece came back twice or not at all.
    """
    import ray.data

    if not work:
        return []
    portion = min(LARGEST, max(1, -(-len(work) // (copies.workers * PORTIONS))))
    rows = [{"place": place, "piece": pickle.dumps(piece)} for place, piece in enumerate(work)]
    _quiet()
    blocks = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // portion))
    with warnings.catch_warnings():  # that Ray will have names of its own for the number of tries
        warnings.simplefilter("ignore", DeprecationWarning)
        found = blocks.map_batches(
            _Worker,
            fn_constructor_args=(make, arguments),
            batch_size=portion,
            compute=ray.data.ActorPoolStrategy(size=min(copies.workers, -(-len(rows) // portion))),
            num_cpus=copies.threads,
            memory=_memory(copies.memory),
            max_restarts=TRIES,
            max_task_retries=TRIES,
            # An environment of its own gets a process of its own, which has imported no other engine.
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(copies.threads), "OMP_WAIT_POLICY": "PASSIVE"}},
        )
    try:
        taken = [(int(row["place"]), row["result"]) for row in found.iter_rows()]
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageFailed(f"resources.workers = {copies.workers}: a copy of the model was lost: {reason}") from error
    return in_order(taken, len(work))


def in_order(taken: Sequence[tuple[int, bytes]], count: int) -> list[Any]:
    """The results of (place, pickled result) by place. Raises StageFailed unless all places from 0 to `count` are there
    once, or the MantaError that stands for a result."""
    results = {place: pickle.loads(result) for place, result in taken}
    for result in results.values():
        if isinstance(result, MantaError):
            raise result
    if len(taken) != count or sorted(results) != list(range(count)):
        raise StageFailed(
            f"{count} pieces of work went out and {len(taken)} came back, {len(results)} of them different ones: run the stage again"
        )
    return [results[place] for place in range(count)]


class _Worker:
    """What Ray Data calls: a copy, made when its process starts."""

    def __init__(self, make: Callable[..., Ask], arguments: tuple[Any, ...]):
        self.failed: MantaError | None = None
        try:
            self.ask = make(*arguments)
        except MantaError as error:  # Ray Data would hide its type, and start the copy again
            self.failed = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pieces = [pickle.loads(piece) for piece in batch["piece"]]
        try:
            results = [self.failed] * len(pieces) if self.failed else self.ask(pieces)
        except MantaError as error:
            results = [error] * len(pieces)
        if len(results) != len(pieces):
            raise RuntimeError(f"{len(pieces)} pieces of work gave {len(results)} results")
        return {"place": batch["place"], "result": [pickle.dumps(result) for result in results]}


def _memory(wanted: int) -> int | None:
    """Bytes to wait for on a node: no more than the largest offers, or the copy would wait for ever."""
    import ray

    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return min(wanted, int(largest)) or None


def _quiet() -> None:
    """Ray Data's own account of an execution stays in its log file: people get Manta's progress."""
    import logging

    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
