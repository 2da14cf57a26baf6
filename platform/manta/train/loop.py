"""The training loop, as each worker runs it: pick up where the last checkpoint stands, step, validate, save, export."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from manta.data.stream import Ahead
from manta.errors import MantaError
from manta.objectives import loss_of, scored_of
from manta.schema import PretrainRecipe
from manta.storage import Folder
from manta.train import checkpoint, exhausted, mixed, notice, optimizers, streams, teacher, unfreezing, validation
from manta.train import speed as speeds
from manta.train.course import Course
from manta.train.driver import Driver
from manta.train.export import export, load_best
from manta.train.job import Job, model_of
from manta.train.marks import Gate
from manta.train.saving import Checkpoints
from manta.train.schedule import learning_rate
from manta.train.watchdog import Watchdog

FIGURES = (
    "loss",
    "perplexity",
    "score",
    "accuracy",
    "macro_f1",
    "exact_match",
    "margin",
    "mrr",
)  # of the last validation, for the manifest


def worker(job: Job) -> dict[str, Any]:
    """Run a rank to the end. Errors that a restart would only repeat are returned, not raised, as {"refused": text}."""
    try:
        return train(job)
    except MantaError as error:
        return {"refused": str(error)}
    except RuntimeError as error:
        if said := exhausted.explained(error, job.recipe.resources):
            raise RuntimeError(said) from error
        raise


def train(job: Job) -> dict[str, Any]:
    """Train to the planned step and export the model. Returns the figures of the run (rank 0's are used)."""
    import ray.train

    process_s, entered = speeds.process_seconds(), time.monotonic()
    rows = ray.train.get_dataset_shard("train")
    ahead = Ahead(streams.batches(rows)) if rows is not None else None  # starts reading now
    state = checkpoint.newest(Folder(job.folder))

    import torch

    from manta.train import engine as engines
    from manta.train.metrics import Metrics, read

    recipe, folder, rank = job.recipe, Folder(job.folder), ray.train.get_context().get_world_rank()
    resources = recipe.resources
    engines.prepare_process(resources)
    losses = [loss_of(stream.objective, teacher.at_hand(stream)) for stream in job.streams]  # of a mix each its own
    counts = [scored_of(stream.objective) for stream in job.streams]
    driver = Driver(job, rank, state)
    universal = state is not None and checkpoint.needs_conversion(state, resources.workers, resources.zero_stage)
    if state is not None and universal:
        optimizers.check_resharding(recipe.optimizer.name, state.workers)
    model = model_of(job, driver.note)
    by_layer = recipe.unfreezing is not None
    engine = engines.Engine(model, losses[0], recipe.optimizer, resources, job.accumulation, universal, by_layer)
    built = time.monotonic()
    course, dog = Course(recipe, folder, state), Watchdog(folder, rank, recipe.watchdog, resources.workers)
    step = 0
    if state is not None:
        step = state.step
        with checkpoint.opened(
            folder, state, universal, engines.to_universal, rank, torch.distributed.barrier
        ) as place:
            engine.load(*place)
    metrics = Metrics(folder, state.metrics_lines if state else 0, step) if rank == 0 else None
    show = validation.Show(job, engine) if rank == 0 and isinstance(recipe, PretrainRecipe) else None
    held_out = validation.HeldOut(job, rank)
    resumed_from, started, trained_seconds = step, time.monotonic(), 0.0
    pace, peak = speeds.Pace(), speeds.peak(recipe.optimizer.precision) if rank == 0 else None
    saves = Checkpoints(folder, rank, resources, recipe.checkpoint.keep, engine, course, metrics, dog, driver, state)
    if metrics:
        taken = {"process_s": process_s, "build_s": built - entered, "load_s": time.monotonic() - built}
        metrics.add("start", step, **{name: round(seconds, 3) for name, seconds in taken.items()})
    gate = Gate(job.marks, rank, engine, dog)
    stopping = gate.closed(step, None)
    moving, tokens_before = False, int(metrics.last["train"]["tokens"]) if metrics and step else 0
    trained_tokens = tokens_before

    while step < job.steps and not stopping and not course.exhausted:
        assert ahead is not None
        began, waited = time.monotonic(), ahead.waited
        found, stream, batch = next(ahead)
        if found != step:
            raise RuntimeError(f"the stream delivered step {found}, but the model stands at step {step}")
        torch.manual_seed(_seed(recipe.seed, step, rank))  # dropout: a function of the position, so a resume repeats it
        lr = learning_rate(step, job.steps, recipe.optimizer.lr, recipe.schedule)
        scored = engine.total(np.atleast_1d(counts[stream](batch)).tolist())
        lowest = unfreezing.lowest(step, engine.layers, recipe.unfreezing)
        seen = _Seen(step, stream, course, driver, saves, engine)
        _, norm = engine.step(batch, scored, lr, lowest, seen, losses[stream])
        if said := course.settle(step, seen.loss, norm, rank, saves.settle):
            driver.note(said)
        if seen.failed:
            saves.settle(step)
        step, loss, moving = step + 1, seen.loss, seen.moving
        stopping = seen.stop_wished or moving
        dog.beat(step)
        elapsed = time.monotonic() - began
        trained_seconds += elapsed
        tokens = batch["input_ids"].size * resources.workers
        trained_tokens += tokens
        if metrics:
            speed, wait = tokens / elapsed, (ahead.waited - waited) / elapsed
            smooth = pace.add(tokens, elapsed)
            used = speeds.mfu(smooth, job.flops_per_token, peak, resources.workers)
            metrics.add(
                "train",
                step,
                loss=loss,
                lr=lr,
                grad_norm=norm,
                tokens=trained_tokens,
                tokens_per_s=round(speed, 1),
                data_wait_share=round(wait, 4),
                **job.said(stream, loss),
                **({} if used is None else {"mfu": round(used, 4)}),
            )
            driver.report(step, loss, smooth, wait)
            saves.note_finished()

        at_end = step == job.steps
        at_mark, best, measured = step in gate.steps and not at_end, False, None
        if (step % recipe.evaluate.every_steps == 0 or at_end or at_mark) and held_out:
            with dog.during("validation"):
                measured = held_out.measure(engine)
            best = course.validated(step, measured)
            if metrics:
                metrics.add("validation", step, **measured)
                for line in show.at(step) if show else ():
                    metrics.add("sample", step, **line)
        if step % recipe.checkpoint.every_steps == 0 or at_end or at_mark or stopping or best or course.exhausted:
            saves.save(step)
        stopping = stopping or (at_mark and gate.closed(step, measured))

    saves.settle()
    dog.close()
    finished = step == job.steps or course.exhausted
    figures: dict[str, Any] = {"stopped": not finished, "moving": moving and not finished, "step": step}
    figures["halted"] = gate.halted and not finished
    if finished:
        if course.spared not in (None, step):
            load_best(engine, folder, course.spared, rank, resources)
        export(job, engine, model, folder)
    if metrics and finished:
        figures |= _figures(step, job, metrics.last, model, resumed_from, time.monotonic() - started)
        if job.beside:
            figures |= mixed.final_losses(read(folder), job.names, job.shares)
        if trained_seconds:
            figures["tokens_per_second"] = round((trained_tokens - tokens_before) / trained_seconds, 1)
        figures |= course.figures()
    if metrics:
        metrics.close()
    return figures


class _Seen:
    """Decides, before its update, about a step: by the loss of all ranks. Asks in passing whether any has to stop."""

    def __init__(self, step: int, stream: int, course: Course, driver: Driver, saves: Checkpoints, engine: Any):
        self.step, self.stream, self.course, self.driver, self.saves, self.engine = (
            step,
            stream,
            course,
            driver,
            saves,
            engine,
        )
        self.loss, self.stop_wished, self.moving, self.failed = math.nan, False, False, False

    def __call__(self, share: float, norm: float | None) -> bool:
        asked = [self.driver.stop_wished(), notice.leaving(), self.saves.failed]
        self.loss, *votes = self.engine.total([share, *map(float, asked)])
        self.stop_wished, self.moving, self.failed = (vote > 0 for vote in votes)
        return self.course.judge(self.step, self.loss, norm, self.stream)


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _figures(
    steps: int,
    job: Job,
    last: dict[str, dict[str, Any]],
    model: Any,
    resumed_from: int,
    seconds: float,
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "steps": steps,
        "tokens": int(last["train"]["tokens"]),
        "final_loss": last["train"]["loss"],
        "parameters": sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()),
        "resumed_from_step": resumed_from,
        "seconds": round(seconds, 2),
    }
    if "validation" in last:
        known = [*FIGURES, *(f"{figure}_{name}" for name in job.names for figure in FIGURES)]
        figures |= {f"validation_{name}": last["validation"][name] for name in known if name in last["validation"]}
    return figures
