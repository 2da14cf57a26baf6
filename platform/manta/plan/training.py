"""Plans of pre-training, fine-tuning and sweeps: steps, memory of a worker by part, disk, hours; by formula or by trying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manta import artifact
from manta.errors import InputError
from manta.plan import gpus, mixing, others, sources, teaching
from manta.plan.figures import GIB, RAY_BYTES, WORKER_BYTES, Figures, Given
from manta.plan.sources import Rows, Training
from manta.schema import CompressRecipe, PretrainRecipe, TuneRecipe

if TYPE_CHECKING:
    from manta.models.memory import Setting

# Useful operations a second (those of formulas.flops_per_token) of a core, measured on 2-core AVX-512 machines of Intel's and
# AMD's for models of 10M to 135M weights.
FLOPS_PER_CORE = {
    "bf16": 0.17e12,
    "fp32": 0.07e12,
    "emulated bf16": 0.024e12,
    "AMD's bf16": 0.24e12,
    "AMD's fp32": 0.15e12,  # as manta.kernels multiplies
}
ASSUMED_GPU = "h100"  # where a recipe wants GPUs and nobody says which


def tune(recipe: TuneRecipe, figures: Figures, given: Given) -> None:
    """Of one trial, and of all of them together; none is taken to be given up before its end."""
    one, search = recipe.first, recipe.search
    if search.trials * search.repeats > 1:
        figures["trials"] = search.trials * search.repeats
    if isinstance(one, CompressRecipe):
        others.compress(one, figures, given)
        return
    if search.early is not None:
        figures["notes"].append("trials that search.early gives up are counted whole: the sweep takes less")
    train(one, figures, given, recipe.resources.concurrent_trials)


def train(recipe: Training, figures: Figures, given: Given, at_once: int = 1) -> None:
    """`at_once`: runs that share this machine's memory."""
    from manta.models import formulas

    notes = figures["notes"]
    mixed = None
    if isinstance(recipe, PretrainRecipe) or not recipe.mix:
        rows = sources.rows(recipe, given, notes)
    else:
        mixed = mixing.read(recipe, given, notes)
        rows = mixed.widest if mixed else None
    config = sources.config(recipe, rows, notes)
    _length(recipe, rows, given, figures)
    if mixed is not None and not isinstance(recipe, PretrainRecipe):
        mixing.lengths(recipe, mixed, figures)
    if config is None or rows is None:
        if given.gpu or given.measure:
            raise InputError(
                "the model or its rows are not there yet, so there is nothing to advise on or to try: see the notes of the plan"
            )
        return
    positions = formulas.max_positions(config)
    if positions is not None and rows.seq_len > positions:
        raise InputError(
            f"rows of {rows.seq_len} tokens exceed the model's {positions} positions: set model.max_position_embeddings={rows.seq_len}"
        )
    figures["parameters"] = formulas.num_parameters(config)
    moving = sources.trainable(recipe, config, figures["parameters"])
    if moving != figures["parameters"]:
        figures["trainable_parameters"] = moving
    if "tokens" in figures:
        each = rows.sides * formulas.flops_per_token(config, rows.seq_len, rows.target_len, rows.scored)
        work = mixing.flops(mixed, config, figures) if mixed else figures["tokens"] * each
        figures["flops"] = work * figures.get("trials", 1)
    setting = _setting(recipe, rows, moving, figures)
    setting, told = teaching.planned(recipe, config, rows, setting, figures)
    figures["disk_bytes"] = figures.get("trials", 1) * _disk(recipe, figures["parameters"], moving) + told
    if given.gpu is not None:
        gpus.advise(recipe, config, setting, figures, given)
        teaching.hours(figures)
        return
    _memory(recipe, config, setting, figures, at_once)
    if "flops" in figures:
        figures["hours"] = figures["flops"] / _rate(recipe, given, notes) / 3600
    if given.measure:
        _try(recipe, figures)
    teaching.hours(figures)


def _length(recipe: Training, rows: Rows | None, given: Given, figures: Figures) -> None:
    """How many rows a step has, how many steps there are."""
    from manta.train import comparing, schedule

    if not isinstance(recipe, PretrainRecipe) and given.gpu is None:
        comparing.check_groups(recipe.task, recipe.resources)
    if recipe.batch.samples is None and rows is None:
        return
    batch = schedule.batch_rows(recipe.batch, rows.seq_len if rows else 1)
    figures["batch_rows"] = batch
    if given.gpu is None:
        figures["accumulation"] = schedule.accumulation(batch, recipe.resources)
    if rows is not None and (recipe.stop.epochs is None or rows.num_rows is not None):
        figures["steps"] = schedule.planned_steps(recipe.stop, batch, rows.num_rows or 0, rows.seq_len)
        figures["tokens"] = figures["steps"] * batch * rows.seq_len


def _setting(recipe: Training, rows: Rows, moving: int, figures: Figures) -> Setting:
    """What the formulas of memory want to know."""
    from manta.models.memory import Setting

    resources, optimizer = recipe.resources, recipe.optimizer
    return Setting(
        seq_len=rows.seq_len,
        micro_batch=resources.micro_batch,
        workers=resources.workers,
        zero_stage=resources.zero_stage,
        precision=optimizer.precision,
        optimizer=optimizer.name,
        momentum=bool(optimizer.momentum),
        trainable=moving,
        accumulation=figures.get("accumulation", 1),
        target_len=rows.target_len,
        scored=rows.scored,
        isolated=rows.isolated,
        sides=rows.sides,
        checkpointing=resources.activation_checkpointing,
        gpu=resources.gpus_per_worker > 0,
        offload=resources.offload,
        overlap=resources.communication.overlap,
        bucket_bytes=resources.communication.bucket_bytes,
    )


def _disk(recipe: Training, parameters: int, moving: int) -> int:
    """Checkpoints, one more than are kept while the next is written, and the model."""
    from manta.models import memory

    weights = parameters * memory.BYTES[recipe.optimizer.precision]
    values = memory.moments(recipe.optimizer.name, bool(recipe.optimizer.momentum))
    master = 4 if recipe.resources.zero_stage or recipe.optimizer.precision == "bf16" else 0
    return int((recipe.checkpoint.keep + 1) * (weights + moving * (4 * values + master)) + weights)


# --- memory ----------------------------------------------------------------------------------------------------------


def _memory(recipe: Training, config: dict[str, Any], setting: Setting, figures: Figures, runs: int) -> None:
    """Memory of one worker by part, and whether it fits: on this machine when the workers' CPUs are its own."""
    figures["memory_per_worker"] = mine = parts(config, setting)
    if recipe.resources.address is not None or recipe.resources.gpus_per_worker:
        figures["notes"].append(
            "whether the memory suffices is for the cluster's nodes to say: compare the total above with theirs, or "
            "name their GPUs with --gpu"
        )
        return
    at_once = recipe.resources.workers * runs
    figures["memory_bytes"] = mine["total_bytes"] * at_once + RAY_BYTES
    there = artifact.hardware()["memory_bytes"]
    if figures["memory_bytes"] > there:
        raise _too_large(config, setting, mine["total_bytes"], at_once, there)


def parts(config: dict[str, Any], setting: Setting) -> dict[str, int]:
    """Bytes of a worker by part, at the moment when it holds most, and their total."""
    from manta.models import memory

    found = memory.training(config, setting) | {"process": WORKER_BYTES}
    return {f"{name}_bytes": size for name, size in found.items()} | {"total_bytes": sum(found.values())}


def _too_large(config: dict[str, Any], setting: Setting, each: int, at_once: int, there: int) -> InputError:
    from dataclasses import replace

    for recomputed in (setting.checkpointing, True):
        for stage in range(setting.zero_stage, 4):
            for micro in dict.fromkeys((setting.micro_batch, 1)):
                passes = setting.accumulation * setting.micro_batch // micro  # the batch stays
                other = replace(
                    setting, checkpointing=recomputed, zero_stage=stage, micro_batch=micro, accumulation=passes
                )
                if parts(config, other)["total_bytes"] * at_once + RAY_BYTES <= there:
                    words = [f"resources.zero_stage={stage}", f"resources.micro_batch={micro}"]
                    words += (
                        ["resources.activation_checkpointing=true"] if recomputed and not setting.checkpointing else []
                    )
                    return _refusal(each, at_once, there, f"set {' '.join(words)}")
    return _refusal(
        each, at_once, there, "choose a smaller model, or a cluster (resources.address) whose nodes have the memory"
    )


def _refusal(each: int, at_once: int, there: int, remedy: str) -> InputError:
    return InputError(
        f"{at_once} workers of {each / GIB:.1f} GiB each need {(each * at_once + RAY_BYTES) / GIB:.1f} GiB with Ray, this machine has "
        f"{there / GIB:.1f} GiB: {remedy}"
    )


# --- time ------------------------------------------------------------------------------------------------------------


def _rate(recipe: Training, given: Given, notes: list[str]) -> float:
    """Useful operations a second of all workers, by assumption."""
    from manta import hardware

    resources, precision = recipe.resources, recipe.optimizer.precision
    if cards := resources.workers * resources.gpus_per_worker:
        rate = cards * given.mfu * hardware.GPUS[ASSUMED_GPU].peak(precision)
        what = f"GPUs of type {ASSUMED_GPU} at {given.mfu:.0%} of their peak; say which with --gpu"
    else:
        kind = _arithmetic(recipe)
        rate = resources.workers * resources.cpus_per_worker * FLOPS_PER_CORE[kind]
        what = f"AVX-512 cores, {kind}; --measure tries it"
    notes.append(f"hours assume {rate / 1e12:.2g} useful TFLOP/s in all ({what}), trials one after another")
    return rate


def _arithmetic(recipe: Training) -> str:
    """The key of FLOPS_PER_CORE that the workers' processors compute by; a cluster's are taken to be new ones of Intel's."""
    from manta import hardware, kernels

    precision = recipe.optimizer.precision
    if recipe.resources.address is not None:
        return precision
    if precision == "bf16" and not hardware.bf16_in_processor():
        return "emulated bf16"
    return precision if kernels.is_intel() else f"AMD's {precision}"


def _try(recipe: Training, figures: Figures) -> None:
    """Add what a few steps of the recipe itself held, and replace the steps and hours by what follows from them."""
    from manta.train import probe

    tried = probe.measure(recipe)
    found = tried.worker
    total = found.process_bytes + found.training_bytes
    held = {"process_bytes": found.process_bytes, "model_and_step_bytes": found.training_bytes, "total_bytes": total}
    figures["memory_tried_per_worker"] = held | ({"gpu_bytes": found.gpu_bytes} if found.gpu_bytes else {})
    figures["seconds_per_step"] = found.step_s
    figures["tokens_per_s"] = tried.tokens_per_step / found.step_s
    figures |= {"steps": tried.steps, "tokens": tried.steps * tried.tokens_per_step}
    validations = -(-tried.steps // recipe.evaluate.every_steps)
    rows = -(-min(recipe.evaluate.max_rows, tried.validation_rows) // recipe.resources.workers)
    seconds = tried.steps * found.step_s + validations * rows * found.validation_row_s
    figures["hours"] = seconds * figures.get("trials", 1) / 3600
    figures["measured"] = ["memory_tried_per_worker", "seconds_per_step", "tokens_per_s", "hours"]
    figures["notes"] = [note for note in figures["notes"] if not note.startswith(("hours assume", "rows are taken"))]
    figures["notes"].append(
        f"measured: the median of {found.steps} steps on the hardware that training will have; hours are of steps and validations"
    )
