"""The driver's side of pre-training and fine-tuning: check, plan, start Ray Train, follow it, and report."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from manta import cluster, mix
from manta.artifact import Draft, Resolved
from manta.errors import InputError, Problem, RecipeError, StageFailed
from manta.progress import Progress
from manta.schema import FinetuneRecipe, PretrainRecipe, Recipe
from manta.sections.model import NewModel
from manta.sections.objective import Clm, Distillation, Masking, Objective, Preference
from manta.sections.resources import TrainResources
from manta.storage import Folder
from manta.train import memory, mixed, optimizers, preparing, samples, schedule, shm_op, zero
from manta.train.marks import Halted, Marks

STOP_SECONDS = 120  # for workers to take the step they are at and save


def problems(recipe: Recipe) -> Iterator[Problem]:
    """What is wrong with a recipe by itself: streams that do not go together."""
    if isinstance(recipe, FinetuneRecipe):
        yield from mix.problems(recipe)


def check(recipe: Recipe, inputs: Mapping[str, Resolved]) -> None:
    """Everything that can be known to be wrong before Ray starts. Raises InputError."""
    assert isinstance(recipe, PretrainRecipe | FinetuneRecipe)
    if isinstance(recipe, FinetuneRecipe) and recipe.mix:
        _check_early_stop(recipe, _config(inputs) or {})
        return mixed.check(recipe, inputs, check)
    optimizers.check(recipe.optimizer.name, recipe.resources.zero_stage)
    zero.check(recipe.optimizer, recipe.resources)
    _check_compiler(recipe.resources)
    from manta.models import classes, formulas, load, presets
    from manta.train import comparing, teacher

    if isinstance(recipe, FinetuneRecipe):
        from manta.tasks.encoding import rows
        from manta.train.objective import objective_of

        known = _config(inputs)
        _check_early_stop(recipe, known or {})
        comparing.check_groups(recipe.task, recipe.resources)
        rows.check(recipe, dict(inputs))
        if known is not None:
            objective_of(recipe, known)
            teacher.check(recipe, inputs, known, Folder(load.model_url(inputs["model.source"])))
        if recipe.batch.samples is not None:
            schedule.accumulation(recipe.batch.samples, recipe.resources)
        return
    if recipe.samples is not None:
        samples.check(recipe.objective.name, recipe.resources.zero_stage)
    from manta.data.shards import load_index
    from manta.objectives import problems

    index = load_index(inputs["data.shards"].path)
    rows_per_step = schedule.batch_rows(recipe.batch, index.seq_len)
    schedule.accumulation(rows_per_step, recipe.resources)
    if index.rows("train") == 0:
        raise InputError(
            f"data.shards = {recipe.data.shards!r} holds no training rows: prepare more text, or lower its data.seq_len"
        )
    if isinstance(recipe.model, NewModel):
        config = presets.config(recipe.model, index.vocab_size, {}, recipe.objective.name)
        remedy = f"set model.max_position_embeddings={index.seq_len}"
    else:
        source = load.model_config(load.model_url(inputs["model.source"]))
        config, remedy = classes.suited(source, recipe.objective.name), "prepare shards with a lower data.seq_len"
        if index.vocab_size > config["vocab_size"]:
            raise InputError(
                f"data.shards = {recipe.data.shards!r} has a vocabulary of {index.vocab_size} tokens, model.source = {recipe.model.source!r} "
                f"one of {config['vocab_size']}: prepare the shards with tokenizer.source={recipe.model.source}"
            )
    if found := list(problems(recipe.objective, config["model_type"], index.layout)):
        raise RecipeError(f"pretrain {recipe.name}", found)
    positions = formulas.max_positions(config)
    if positions is not None and index.seq_len > positions:
        raise InputError(f"the rows of {index.seq_len} tokens exceed the model's {positions} positions: {remedy}")
    teacher.check(recipe, inputs, config, Folder(inputs["data.shards"].path) / "tokenizer", index)


def _check_early_stop(recipe: FinetuneRecipe, config: Mapping[str, Any]) -> None:
    """Refuse a figure that the validation will not have, and a score that is to be as low as possible."""
    if (early := recipe.early_stop) is None:
        return
    measured = {stream.name: _measured(stream.recipe, config) for stream in mix.streams(recipe)}
    scores = {figure for _, found in measured.values() for figure in found}
    known = [*dict.fromkeys(figure for found in measured.values() for part in found for figure in part)]
    told = f"task.name = {recipe.task.name!r}"
    if recipe.mix:
        scores = {f"{figure}_{name}" for name, (_, found) in measured.items() for figure in found}
        known = ["loss", *(f"{figure}_{name}" for name, found in measured.items() for part in found for figure in part)]
        told = "this mix"
    if early.figure not in known:
        raise InputError(
            f"early_stop.figure = {early.figure!r} is not measured for {told}: choose one of {', '.join(known)}"
        )
    if early.figure in scores and early.mode == "min":
        raise InputError(
            f"early_stop.mode = 'min' would keep the weights with the lowest {early.figure}, the worst ones: set early_stop.mode=max"
        )


def _measured(recipe: mix.Side, config: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a stream's validation has: losses, which are to be low, and scores, which are to be high."""
    from manta.tasks import TASKS
    from manta.train import asking

    if isinstance(recipe, PretrainRecipe):
        return ("loss", "perplexity"), ()
    scores = getattr(TASKS[recipe.task.name], "SCORES", None)
    return (("loss", "perplexity"), asking.figures_of(recipe, config)) if scores is None else (("loss",), scores)


def _config(inputs: Mapping[str, Resolved]) -> dict[str, Any] | None:
    """The content of the model's config.json; None of a package, which is unpacked later, and checked then."""
    from manta.models import load

    chosen = inputs["model.source"]
    return None if chosen.kind == "package" else load.model_config(load.model_url(chosen))


def _check_compiler(resources: TrainResources) -> None:
    here = resources.address is None and resources.gpus_per_worker == 0
    if resources.compile and here and shm_op.compiler() is None:
        raise InputError(
            "resources.compile = True: there is no C++ compiler here: install g++, or set resources.compile=false"
        )


def run(recipe: Recipe, draft: Draft, progress: Progress, marks: Marks | None = None) -> dict[str, Any]:
    """Train `recipe` into `draft`; returns steps, tokens, losses, perplexity, parameters, speed.

    Raises Halted where training was told to stop at one of `marks`. Ctrl-C lets the workers finish their step and save,
    then raises KeyboardInterrupt. Raises StageFailed when the workers failed more often than resources.max_restarts, or
    when training itself cannot go on.
    """
    assert isinstance(recipe, PretrainRecipe | FinetuneRecipe)
    from manta.train import lessons, teacher

    resources = recipe.resources
    cluster.connect(resources.address, resources.workers * resources.cpus_per_worker)
    cluster.check_fits(resources.workers, resources.cpus_per_worker, resources.gpus_per_worker)
    for stream, place in mixed.parts(recipe, draft) if isinstance(recipe, FinetuneRecipe) else ():
        if isinstance(stream.recipe, FinetuneRecipe) and stream.recipe.task.name == "preference":
            preparing.ask_before(stream.recipe, place, progress, marks)
    with cluster.relay(progress) as mailbox:
        job = make_job(recipe, draft, mailbox, progress, marks)
        lessons.store(job, progress)
        while (figures := _fit(job, progress)).pop("moving", False):
            progress.note(
                f"a node of this run is about to leave: saved at step {figures['step']}, carrying on where there is room for "
                f"{recipe.resources.workers} workers"
            )
    if "refused" in figures:
        raise StageFailed(figures["refused"])
    if figures.pop("halted"):
        raise Halted(f"halted at step {figures['step']}, saved; `manta resume {draft.folder.url}` carries on")
    if figures.pop("stopped"):
        raise KeyboardInterrupt(f"stopped at step {figures['step']}, saved")
    figures.pop("step")
    draft.folder.clear(teacher.FOLDER)
    return figures


def make_job(
    recipe: PretrainRecipe | FinetuneRecipe, draft: Draft, mailbox: Any, progress: Progress, marks: Marks | None = None
) -> Any:
    """What the workers are told, a `manta.train.job.Job`. Writes the rows of a task below the draft's folder."""
    if isinstance(recipe, FinetuneRecipe) and recipe.mix:
        return mixed.make_job(recipe, draft, mailbox, progress, marks, make_job, check)
    from manta.data import grouping, views
    from manta.data.shards import load_index
    from manta.data.stream import Feed, padding_share
    from manta.models import load, presets
    from manta.tasks import labels
    from manta.train import teacher
    from manta.train.job import Job
    from manta.train.objective import objective_of

    source = None if isinstance(recipe.model, NewModel) else load.model_url(draft.inputs["model.source"])
    if isinstance(recipe, FinetuneRecipe):
        assert source is not None
        where = preparing.task_rows(recipe, draft, source, progress, marks)
        grown = Folder(where).exists("tokenizer/tokenizer_config.json")  # by tokens that the task brings
        tokenizer = f"{where}/tokenizer" if grown else source
    else:
        where, grown = draft.inputs["data.shards"].path, False
        tokenizer = source or f"{where}/tokenizer"
    index = load_index(where)
    rows = schedule.batch_rows(recipe.batch, index.seq_len)
    known = labels.load(Folder(where)) if Folder(where).exists(labels.FILE) else None
    config = None
    if isinstance(recipe.model, NewModel):
        special = {"bos_token_id": index.bos_id, "eos_token_id": index.eos_id, "pad_token_id": index.pad_id}
        config = presets.config(recipe.model, index.vocab_size, special, recipe.objective.name)
    found = config or load.model_config(source or "")
    objective = objective_of(recipe, found, known)
    head = None
    if known is not None:  # decoders find a row's last token by what fills it up
        head = labels.head_of(known, found) | (
            {} if found.get("pad_token_id") is not None else {"pad_token_id": index.pad_id}
        )
    view = (
        views.of(recipe.objective, index, Folder(where) / "tokenizer") if isinstance(recipe, PretrainRecipe) else None
    )
    feed = Feed(
        shards=where,
        columns=view.columns_out if view else index.columns,
        batch=rows,
        steps=schedule.planned_steps(recipe.stop, rows, index.epoch_rows(), index.seq_len),
        seed=recipe.seed,
        view=view,
        trim=grouping.trim_of(
            index.padded,
            index.seq_len,
            getattr(recipe.batch, "grouping", "none") == "length",
            recipe.resources.compile,
            recipe.optimizer.precision,
        ),
    )
    padding = 0.0 if feed.trim is None else padding_share(feed)
    if feed.trim is not None:
        progress.note(f"{padding:.1%} of the tokens that the first epoch's steps work on are padding")
    job = Job(
        recipe=recipe,
        objective=objective,
        folder=draft.folder.url,
        feed=feed,
        accumulation=schedule.accumulation(rows, recipe.resources),
        flops_per_token=(1.0 - padding) * _flops_per_token(objective, found | (head or {}), index, where),
        config=config,
        source=source,
        tokenizer=tokenizer,
        mailbox=mailbox,
        marks=marks,
        labels=known,
        head=head,
        tokens=index.vocab_size if grown else None,
    )
    return teacher.joined(job, draft)


def _flops_per_token(objective: Objective, config: dict[str, Any], index: Any, where: str) -> float:
    """Of the tokens that training counts, those that an encoder or a decoder reads; examples are of their mean length."""
    from manta.models import classes, formulas

    seq_len, target = index.seq_len, index.noise.target_len if index.noise else index.target_len or index.seq_len
    scored = objective.mask_fraction if isinstance(objective, Masking) else 1.0
    if index.layout == "examples":
        told = json.loads(Folder(where).read_text("report.json"))["train"]
        seq_len, target = (max(1, round(told[name] / told["rows"])) for name in ("tokens", "trained_tokens"))
        scored = told["trained_share"] if isinstance(objective, Clm | Distillation | Preference) else 1.0
    sides = sum(column.endswith("input_ids") for column in index.columns)  # texts that a row holds side by side
    return sides * formulas.flops_per_token(classes.suited(config, objective.name), seq_len, target, scored)


def _fit(job: Any, progress: Progress) -> dict[str, Any]:
    """Run Ray Train to its end, in a thread of its own: in the main one it would take over Ctrl-C and abort."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from manta.data.shards import load_index
    from manta.train import checkpoint, loop, streams

    resources, folder, feeds = job.recipe.resources, Folder(job.folder), [stream.feed for stream in job.streams]
    seq_lens = [load_index(feed.shards).seq_len for feed in feeds]
    folder.clear("work/ray")
    # A process of each worker group looks for nodes that are about to leave: the one node of a local Ray stays.
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0" if cluster.is_local() else "1"
    trainer = TorchTrainer(
        loop.worker,
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        scaling_config=scaling(resources),
        run_config=ray.train.RunConfig(
            name=f"attempt-{time.time_ns()}",
            storage_path=f"{folder.url}/work/ray",
            failure_config=ray.train.FailureConfig(max_failures=resources.max_restarts),
            worker_runtime_env=environment(resources),
        ),
        datasets={"train": _no_dataset},
        dataset_config=streams.OrderedStreams(feeds, seq_lens, job.order, _Start(job.folder)),
    )
    done: dict[str, Any] = {}
    finished = threading.Event()

    def fit() -> None:
        try:
            done["result"] = trainer.fit()
        except Exception as error:  # noqa: BLE001 - it is raised again in the main thread
            done["error"] = error
        finally:
            finished.set()

    threading.Thread(target=fit, name="manta-fit", daemon=True).start()
    try:
        wait(finished, lambda: progress.stopping)
    except KeyboardInterrupt:
        progress.note("interrupted: taking the step at hand and saving (Ctrl-C again to drop it)")
        job.mailbox.stop.remote()
        wait(finished, seconds=STOP_SECONDS)
        raise
    if "error" in done:
        state = checkpoint.newest(folder)
        kept = f"the checkpoint of step {state.step} is kept" if state else "there is no checkpoint yet"
        raise StageFailed(
            f"training failed more often than resources.max_restarts = {resources.max_restarts}: {reason(done['error'])}\n"
            f"{kept}; `manta resume {folder.url}` carries on"
        ) from done["error"]
    return dict(done["result"].return_value)


def scaling(resources: TrainResources) -> Any:
    """The workers that Ray Train is to start, and what each of them gets."""
    import ray.train

    each = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    return ray.train.ScalingConfig(
        num_workers=resources.workers,
        use_gpu=resources.gpus_per_worker > 0,
        resources_per_worker={name: count for name, count in each.items() if count},
    )


def environment(resources: TrainResources) -> dict[str, Any]:
    """The runtime environment of those workers."""
    return {} if resources.gpus_per_worker else {"env_vars": memory.ENVIRONMENT}


def _no_dataset() -> None:
    """Stands for the dataset that OrderedConfig makes itself, one for each rank and worker group."""


class _Start:
    """Asks the run's folder for the step to start at; a class, so that it travels to Ray's actors."""

    def __init__(self, url: str):
        self.url = url

    def __call__(self) -> int:
        from manta.train import checkpoint

        return checkpoint.newest_step(self.url)


def wait(
    finished: threading.Event, stopping: Callable[[], bool] = lambda: False, seconds: float = float("inf")
) -> None:
    """Wait in short steps, so that signals are seen; raises KeyboardInterrupt as well when `stopping` says so. Not by
    Thread.join: interrupted, Python 3.11's takes the thread for ended."""
    end = time.monotonic() + seconds
    while not finished.is_set() and time.monotonic() < end:
        finished.wait(0.2)
        if stopping() and not finished.is_set():
            raise KeyboardInterrupt("stopped by the sweep that this run belongs to")


def reason(error: BaseException) -> str:
    """The workers' own last line rather than Ray's wrapping."""
    failures = getattr(error, "worker_failures", None) or {}
    shown = [str(failure).strip().splitlines()[-1] for failure in failures.values() if str(failure).strip()]
    return shown[0] if shown else str(error).strip().splitlines()[-1]
