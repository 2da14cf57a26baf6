"""The training loop, as each worker runs it: pick up where the last checkpoint stands, step, validate, save, export."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manta.data.shards import load_index
from manta.data.stream import Ahead, Feed, batches, viewed
from manta.errors import MantaError, StageFailed
from manta.objectives import NOT_SCORED, TABLE, attach, detach, loss_of
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.objective import Clm, Objective
from manta.sections.train import TrainResources
from manta.storage import Folder
from manta.train import checkpoint, optimizers, samples, unfreezing
from manta.train import speed as speeds
from manta.train.course import Course
from manta.train.schedule import learning_rate
from manta.train.watchdog import Watchdog

MAILBOX_SECONDS = 0.25
SCORED = {"labels", "predecessor_labels", "next_sentence_label"}  # columns that say what is scored
# Everything but the weights that makes a Hugging Face directory usable by itself.
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "generation_config.json",
)


@dataclass(frozen=True)
class Job:
    """What the driver decided before the workers start; plain values, the same on every rank."""

    recipe: PretrainRecipe | FinetuneRecipe
    folder: str  # the run's own
    feed: Feed  # of all steps
    accumulation: int
    flops_per_token: float
    config: dict[str, Any] | None  # content of config.json of a model from scratch
    source: str | None  # Hugging Face directory of a model to start from
    tokenizer: str  # directory with the tokenizer's files
    mailbox: Any  # cluster.relay's actor


def worker(job: Job) -> dict[str, Any]:
    """Run a rank to the end. Errors that a restart would only repeat are returned, not raised, as {"refused": text}."""
    try:
        return train(job)
    except MantaError as error:
        return {"refused": str(error)}


def train(job: Job) -> dict[str, Any]:
    """Train to the planned step and export the model. Returns the figures of the run (rank 0's are used)."""
    import ray.train

    stream = ray.train.get_dataset_shard("train")
    ahead = Ahead(batches(stream, job.feed.columns)) if stream is not None else None  # starts reading now
    state = checkpoint.newest(Folder(job.folder))

    import torch

    from manta.train import engine as engines
    from manta.train.metrics import Metrics

    recipe, folder, rank = job.recipe, Folder(job.folder), ray.train.get_context().get_world_rank()
    resources = recipe.resources
    engines.prepare_process(resources)
    objective = recipe.objective if isinstance(recipe, PretrainRecipe) else Clm(name="clm")
    entry = TABLE[objective.name]
    universal = state is not None and checkpoint.needs_conversion(state, resources.workers, resources.zero_stage)
    if state is not None and universal:
        optimizers.check_resharding(recipe.optimizer.name, state.workers)
    note = _noter(job, rank)
    model = attach(objective, _model(job, objective, note), recipe.seed)
    by_layer = recipe.unfreezing is not None
    engine = engines.Engine(
        model, loss_of(objective), recipe.optimizer, resources, job.accumulation, universal, by_layer
    )
    course, dog = Course(recipe, folder, state), Watchdog(folder, rank, recipe.watchdog)
    step = 0
    if state is not None:
        step = state.step
        with checkpoint.opened(
            folder, state, universal, engines.to_universal, rank, torch.distributed.barrier
        ) as place:
            engine.load(*place)
    metrics = Metrics(folder, state.metrics_lines if state else 0, step) if rank == 0 else None
    driver = _Driver(job, step) if rank == 0 else None
    show = _Show(job, engine, objective.name) if rank == 0 and isinstance(recipe, PretrainRecipe) else None
    validation = _validation_rows(job, rank)
    resumed_from, stopping, started, trained_seconds = step, False, time.monotonic(), 0.0
    pace, peak = speeds.Pace(), speeds.peak(recipe.optimizer.precision) if rank == 0 else None

    def save() -> None:
        if metrics:
            metrics.add("memory", step, **speeds.memory())
            metrics.sync()
        lines = metrics.lines if metrics else 0
        here = checkpoint.State(step, resources.workers, resources.zero_stage, lines, **course.state())
        with dog.during("checkpoint"):
            checkpoint.save(
                folder, here, engine.save, rank, torch.distributed.barrier, recipe.checkpoint.keep, course.spared
            )

    while step < job.feed.steps and not stopping and not course.exhausted:
        assert ahead is not None
        began, waited = time.monotonic(), ahead.waited
        found, batch = next(ahead)
        if found != step:
            raise RuntimeError(f"the stream delivered step {found}, but the model stands at step {step}")
        torch.manual_seed(_seed(recipe.seed, step, rank))  # dropout: a function of the position, so a resume repeats it
        lr = learning_rate(step, job.feed.steps, recipe.optimizer.lr, recipe.schedule)
        scored = _global_sum(np.atleast_1d(entry.scored(batch)).tolist(), engine.device)
        lowest = unfreezing.lowest(step, engine.layers, recipe.unfreezing)
        seen = _Seen(step, course, driver, engine.device)
        _, norm = engine.step(batch, scored, lr, lowest, seen)
        if said := course.settle(step, seen.loss, norm, rank, torch.distributed.barrier):
            note(said)
        step, stopping, loss = step + 1, seen.stop_votes > 0, seen.loss
        dog.beat(step)
        elapsed = time.monotonic() - began
        trained_seconds += elapsed
        tokens = batch["input_ids"].size * resources.workers
        if metrics and driver:
            speed, wait = tokens / elapsed, (ahead.waited - waited) / elapsed
            smooth = pace.add(tokens, elapsed)
            used = speeds.mfu(smooth, job.flops_per_token, peak, resources.workers)
            metrics.add(
                "train",
                step,
                loss=loss,
                lr=lr,
                grad_norm=norm,
                tokens=step * tokens,
                tokens_per_s=round(speed, 1),
                data_wait_share=round(wait, 4),
                **({} if used is None else {"mfu": round(used, 4)}),
            )
            driver.report(step, loss, smooth, wait)

        at_end = step == job.feed.steps
        best = False
        if (step % recipe.evaluate.every_steps == 0 or at_end) and validation:
            with dog.during("validation"):
                measured = _validate(engine, validation, entry.parts)
            best = course.validated(step, measured)
            if metrics:
                metrics.add("validation", step, **measured)
                for line in show.at(step) if show else ():
                    metrics.add("sample", step, **line)
        if step % recipe.checkpoint.every_steps == 0 or at_end or stopping or best or course.exhausted:
            save()

    dog.close()
    finished = step == job.feed.steps or course.exhausted
    figures: dict[str, Any] = {"stopped": not finished, "step": step}
    if finished:
        if course.spared not in (None, step):
            _load_best(engine, folder, course.spared, rank, resources)
        _export(job, engine, model, folder)
    if metrics and finished:
        figures |= _figures(step, metrics.last, model, resumed_from, trained_seconds, time.monotonic() - started)
        figures |= course.figures()
    if metrics:
        metrics.close()
    return figures


# --- what the loop is made of ----------------------------------------------------------------------------------------


def _model(job: Job, objective: Objective, note: Callable[[str], Any]) -> Any:
    """The model as training starts: from scratch or from a source, adapted if the recipe says so; equal on all ranks."""
    import torch

    if job.config is not None:
        from manta.models.build import build

        return build(job.config, job.recipe.seed, objective.name)
    from manta.models.load import load

    assert job.source is not None
    with Folder(job.source).local() as path:
        model = load(path, job.recipe.optimizer.precision, objective.name, job.recipe.seed, note)
    if isinstance(job.recipe, FinetuneRecipe):
        from manta import adapt

        torch.manual_seed(job.recipe.seed)
        model = adapt.apply(model, job.recipe.adapt)
    return model


class _Seen:
    """Decides, before its update, about a step: by the loss of all ranks. Asks in passing whether any wants to stop."""

    def __init__(self, step: int, course: Course, driver: _Driver | None, device: Any):
        self.step, self.course, self.driver, self.device = step, course, driver, device
        self.loss, self.stop_votes = math.nan, 0.0

    def __call__(self, share: float, norm: float | None) -> bool:
        wish = self.driver.stop_wished() if self.driver else False
        self.loss, self.stop_votes = _global_sum([share, float(wish)], self.device)
        return self.course.judge(self.step, self.loss, norm)


class _Show:
    """What the model makes of the recipe's prompts, if there are any."""

    def __init__(self, job: Job, engine: Any, objective: str):
        assert isinstance(job.recipe, PretrainRecipe)
        self.engine, self.objective, self.settings = engine, objective, job.recipe.samples
        if self.settings is not None:
            from transformers import AutoTokenizer

            with Folder(job.tokenizer).local() as place:
                self.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
            samples.check_prompts(self.settings, objective, self.tokenizer)

    def at(self, step: int) -> list[dict[str, str]]:
        if self.settings is None:
            return []
        return samples.take(self.engine.engine.module, self.tokenizer, self.objective, self.settings, step)


def _load_best(engine: Any, folder: Folder, step: int, rank: int, resources: TrainResources) -> None:
    """Put the weights of the best validation back. Raises StageFailed where they were stored for other resources."""
    import torch

    from manta.train import engine as engines

    kept = checkpoint.at(folder, step)
    if (kept.workers, kept.zero_stage) != (resources.workers, resources.zero_stage) and resources.zero_stage:
        raise StageFailed(
            f"early_stop.keep_best: the best weights, of step {step}, were stored by {kept.workers} workers with ZeRO stage "
            f"{kept.zero_stage}: resume with resources.workers={kept.workers} resources.zero_stage={kept.zero_stage}"
        )
    with checkpoint.opened(folder, kept, False, engines.to_universal, rank, torch.distributed.barrier) as place:
        engine.load(*place)


def _noter(job: Job, rank: int) -> Callable[[str], Any]:
    """Tells the driver something, once: on rank 0."""
    return lambda text: job.mailbox.put.remote({"note": text}) if rank == 0 else None


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _global_sum(values: list[float], device: Any) -> list[float]:
    """Elementwise sums over all ranks, in double precision."""
    import torch

    total = torch.tensor(values, dtype=torch.float64, device=device)
    if torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return [float(value) for value in total.cpu()]


def _validation_rows(job: Job, rank: int) -> dict[str, np.ndarray]:
    """This rank's rows of the validation split, int32 (rows, ...), as many on each rank: what lacks is not scored."""
    index, resources = load_index(job.feed.shards), job.recipe.resources
    total = min(index.rows("validation"), job.recipe.evaluate.max_rows)
    if total == 0:
        return {}
    share = math.ceil(total / resources.workers)
    mine = np.arange(rank * share, (rank + 1) * share)
    rows = viewed(job.feed, index, "validation", np.minimum(mine, total - 1))
    rows.setdefault("labels", rows["input_ids"].copy())
    for name in SCORED & rows.keys():
        rows[name][mine >= total] = NOT_SCORED
    return rows


def _validate(engine: Any, rows: dict[str, np.ndarray], parts: tuple[str, ...]) -> dict[str, float]:
    """Mean loss (nats) over the validation rows of all ranks, of each part where there are several; perplexity, tokens."""
    sums, scored = engine.evaluate(rows)
    both = _global_sum([*sums, *scored], engine.device)
    means = [total / max(1.0, count) for total, count in zip(both[: len(parts)], both[len(parts) :], strict=True)]
    figures = {"loss": sum(means), "perplexity": math.exp(min(means[0], 700.0)), "tokens": int(both[len(parts)])}
    if len(parts) > 1:
        figures |= {f"loss_{part}": mean for part, mean in zip(parts, means, strict=True)}
    return figures


class _Driver:
    """Rank 0's line to the driver: reports go out without waiting; the answers say whether it wants to stop."""

    def __init__(self, job: Job, step: int):
        self.job, self._sent = job, 0.0
        self._answers: list[Any] = []
        if step:
            job.mailbox.put.remote({"note": f"carrying on from the checkpoint of step {step}"})

    def report(self, step: int, loss: float, speed: float, wait: float) -> None:
        if time.monotonic() - self._sent < MAILBOX_SECONDS and step < self.job.feed.steps:
            return
        self._sent = time.monotonic()
        update = {
            "done": step,
            "total": self.job.feed.steps,
            "unit": "steps",
            "loss": loss,
            "tokens_per_s": speed,
            "data_wait": wait,
        }
        self._answers.append(self.job.mailbox.put.remote({"update": update}))

    def stop_wished(self) -> bool:
        import ray

        ready, self._answers = (
            ray.wait(self._answers, num_returns=len(self._answers), timeout=0) if self._answers else ([], [])
        )
        return any(ray.get(ready))


def _export(job: Job, engine: Any, model: Any, folder: Folder) -> None:
    """Leave `model/` (and what the adaptation adds) as Hugging Face directories. All ranks call it; rank 0 writes."""
    weights = engine.weights()
    if weights is None:
        return
    if isinstance(job.recipe, PretrainRecipe):
        model, weights = detach(job.recipe.objective, model, weights)
    parts = {"model": lambda path: model.save_pretrained(path, state_dict=weights)}
    if isinstance(job.recipe, FinetuneRecipe):
        from manta import adapt

        assert job.source is not None
        with Folder(job.source).local() as source:
            parts = adapt.export(model, weights, job.recipe.adapt, source)
            _write_parts(parts, job, folder)
        return
    _write_parts(parts, job, folder)


def _write_parts(parts: dict[str, Any], job: Job, folder: Folder) -> None:
    with Folder(job.tokenizer).local() as tokenizer:
        for name, write in parts.items():
            with folder.staged(name) as target:
                write(target)
                if name == "model":
                    for path in _tokenizer_files(tokenizer):
                        shutil.copyfile(path, target / path.name)
                    if isinstance(job.recipe, FinetuneRecipe):
                        from manta.tasks.conversation import stop_at_end

                        stop_at_end(target)


def _tokenizer_files(folder: Path) -> Iterator[Path]:
    for pattern in TOKENIZER_FILES:
        yield from sorted(folder.glob(pattern))


def _figures(
    steps: int,
    last: dict[str, dict[str, Any]],
    model: Any,
    resumed_from: int,
    trained_seconds: float,
    seconds: float,
) -> dict[str, Any]:
    tokens = int(last["train"]["tokens"])
    figures: dict[str, Any] = {
        "steps": steps,
        "tokens": tokens,
        "final_loss": last["train"]["loss"],
        "parameters": sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()),
        "resumed_from_step": resumed_from,
        "seconds": round(seconds, 2),
    }
    if trained_seconds:
        figures["tokens_per_second"] = round(tokens * (steps - resumed_from) / steps / trained_seconds, 1)
    if "validation" in last:
        figures["validation_loss"] = last["validation"]["loss"]
        figures["validation_perplexity"] = last["validation"]["perplexity"]
    return figures
