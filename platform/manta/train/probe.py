"""A recipe tried for a few steps: what a worker holds at most, and how long a step takes, on the hardware it will have."""

from __future__ import annotations

import contextlib
import gc
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from manta.errors import InputError, StageFailed
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.train import speed

STEPS = 12  # beyond the first, which allocates the optimizer's state
SECONDS = 30.0  # of steps, after which no more are taken
ENOUGH = 4  # steps that are taken however long they are
SMALL_LR = 1.0e-6  # the weights hardly move


@dataclass(frozen=True)
class Measured:
    """What a rank held and took. Bytes are of a process's resident memory, and of a GPU as torch reserved it."""

    process_bytes: int  # before there was a model: libraries, Ray, communication
    training_bytes: int  # at most beyond that
    gpu_bytes: int  # 0 without GPUs
    steps: int  # that were taken
    step_s: float  # median
    validation_row_s: float


class Tried(NamedTuple):
    """A recipe's figures: those of the rank that held most, and how long the run will be."""

    worker: Measured
    steps: int  # that are planned
    tokens_per_step: int  # of all workers
    validation_rows: int  # that there are


# --- on a worker -----------------------------------------------------------------------------------------------------


def follow(
    build: Callable[[], Any],
    engine_of: Callable[[Any], Any],
    batches: Iterable[dict[str, Any]],
    scored: Callable[[Mapping[str, Any]], Any],
) -> Measured:
    """Build a model, start its engine by `engine_of(model)`, take a step of each batch, and look at rows once without.

    All ranks call it, with torch.distributed initialised and as many batches each: {column: int32 (rows, ...)}. The
    figures are this rank's.
    """
    import numpy as np

    held = _begin()
    engine = engine_of(build())
    times, batch = list[float](), dict[str, Any]()
    for batch in batches:
        started = time.monotonic()
        counts = engine.total(np.atleast_1d(scored(batch)).tolist())
        # As the loop does: the losses of all ranks are added up before the update.
        engine.step(batch, counts, SMALL_LR, decide=lambda share, _: bool(engine.total([share])))
        times.append(time.monotonic() - started)
        if len(times) == 1:
            engine.snapshot("probe")  # as a checkpoint does; its memory stays
        mean_s = engine.total([sum(times)])[0] / engine.resources.workers
        if mean_s > SECONDS and len(times) > ENOUGH:
            break
    most = speed.memory()
    rows = {name: values[: engine.resources.micro_batch] for name, values in batch.items()}
    started = time.monotonic()
    engine.evaluate(rows)
    row_s = (time.monotonic() - started) / len(next(iter(rows.values())))
    training = max(most["rss_peak"] - held, 0)
    step_s = statistics.median(times[1:] or times)  # the first one allocates
    return Measured(held, training, most.get("gpu_reserved_peak", 0), len(times), step_s, row_s)


def _begin() -> int:
    """Bytes that this process holds now; from here on its peak is counted anew."""
    gc.collect()
    with contextlib.suppress(OSError):  # a kernel that does not allow it leaves the peak since the start, which is near
        Path("/proc/self/clear_refs").write_text("5")
    return speed.memory()["rss"]


def worker(job: Any) -> dict[str, Any]:
    """A rank under Ray Train: `follow` on the first steps of a job's own stream. Returns the figures of the rank that held most."""
    import ray.train
    import torch

    from manta.objectives import loss_of, scored_of
    from manta.train import engine as engines
    from manta.train import shm_op, teacher
    from manta.train.job import model_of

    recipe, rank = job.recipe, ray.train.get_context().get_world_rank()
    resources = recipe.resources
    engines.prepare_process(resources)
    if resources.gpus_per_worker == 0:
        shm_op.settle()  # loads DeepSpeed, which is no part of the model's memory

    def engine_of(model: Any) -> Any:
        by_layer = recipe.unfreezing is not None
        return engines.Engine(
            model,
            loss_of(job.objective, teacher.at_hand(job)),
            recipe.optimizer,
            resources,
            job.accumulation,
            by_layer=by_layer,
        )

    steps = min(STEPS + 1, job.feed.steps)
    mine = follow(
        lambda: model_of(job, lambda _: None), engine_of, _first(job.feed, steps, rank, resources.workers), scored_of(job.objective)
    )  # fmt: skip
    all_ranks: list[Any] = [None] * resources.workers
    torch.distributed.all_gather_object(all_ranks, asdict(mine))
    return dict(max(all_ranks, key=lambda found: found["training_bytes"] + found["gpu_bytes"]))


def _first(feed: Any, steps: int, rank: int, workers: int) -> Iterator[dict[str, Any]]:
    """This rank's rows of the first steps. Rows of a run are all of one length, so none is longer than these."""
    import numpy as np

    from manta.data.stream import read_steps

    for step in range(steps):
        found = read_steps(feed, np.array([step]), rank, workers)
        yield {name: found[name][0] for name in feed.delivered}


# --- on the driver ---------------------------------------------------------------------------------------------------


def measure(recipe: PretrainRecipe | FinetuneRecipe) -> Tried:
    """Try a recipe of pre-training or fine-tuning: its own workers take a few steps, in processes of their own.

    What the steps need is made in a temporary folder, nothing of the run is touched. Raises InputError where the run
    would be refused, StageFailed with the remedy when the workers do not survive it: the run would not either.
    """
    import tempfile

    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from manta import artifact, cluster
    from manta.data.shards import load_index
    from manta.progress import Progress
    from manta.storage import Folder
    from manta.train import lessons, run

    if isinstance(recipe, FinetuneRecipe) and recipe.mix:
        raise InputError(
            f"a few steps of a mix of {len(recipe.mix) + 1} streams say nothing of the others' steps: measure each task by a recipe without "
            "mix"
        )
    resources, inputs = recipe.resources, artifact.resolve_inputs(recipe)
    run.check(recipe, inputs)
    cluster.connect(resources.address, resources.workers * resources.cpus_per_worker)
    cluster.check_fits(resources.workers, resources.cpus_per_worker, resources.gpus_per_worker)
    with tempfile.TemporaryDirectory(prefix="manta-probe-") as scratch:
        draft = artifact.Draft(Folder(scratch), {}, inputs, resumed=False)
        job = run.make_job(recipe, draft, None, Progress(quiet=True))
        few = replace(job, feed=replace(job.feed, steps=min(STEPS + 1, job.feed.steps)))
        lessons.store(few, Progress(quiet=True))
        index = load_index(job.feed.shards)
        trainer = TorchTrainer(
            worker,
            train_loop_config=job,
            torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
            scaling_config=run.scaling(resources),
            run_config=ray.train.RunConfig(
                name="probe", storage_path=f"{scratch}/ray", worker_runtime_env=run.environment(resources)
            ),
        )
        before = signal.getsignal(signal.SIGINT)  # Ray Train sets its own, and leaves it
        try:
            found = Measured(**trainer.fit().return_value)
        except ray.train.TrainingFailedError as error:
            raise StageFailed(
                f"a few steps with resources.workers = {resources.workers} and resources.micro_batch = {resources.micro_batch} "
                f"failed: {run.reason(error)}\nif memory was short: set resources.micro_batch={max(1, resources.micro_batch // 2)}, "
                "resources.activation_checkpointing=true or a higher resources.zero_stage"
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, before)
        return Tried(found, job.feed.steps, job.feed.batch * index.seq_len, index.rows("validation"))
