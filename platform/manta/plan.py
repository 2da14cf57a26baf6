"""What a recipe will cost before anything starts: size, memory by part, disk, work, rough hours; refuses what cannot fit."""

from __future__ import annotations

import contextlib
from typing import Any

from manta import artifact
from manta.errors import InputError
from manta.schema import (
    CompressRecipe,
    EvaluateRecipe,
    FinetuneRecipe,
    PipelineRecipe,
    PrepareRecipe,
    PretrainRecipe,
    Recipe,
    ServeRecipe,
    TuneRecipe,
)
from manta.sections.model import NewModel

GIB = 2**30
# Assumptions, stated in every plan. Rates are useful operations per second (those of formulas.flops_per_token),
# measured on a 2-core AVX-512 machine for models of 10M to 135M weights; a GPU is taken as an H100 at 40% of its peak.
FLOPS_PER_CORE = {"bf16": 0.17e12, "fp32": 0.07e12, "emulated bf16": 0.024e12}
FLOPS_PER_GPU = {"bf16": 0.4 * 989e12, "fp32": 0.4 * 67e12}
WORKER_BYTES = int(1.2 * GIB)  # a worker process with torch, DeepSpeed and Ray, before it holds a model
RAY_BYTES = int(1.5 * GIB)  # a local Ray's own processes, and its object store as the stream uses it
TOKENISE_PER_CORE = 1.0e6  # tokens a second
Figures = dict[str, Any]


def plan(recipe: Recipe | PipelineRecipe) -> Figures:
    """The figures of a recipe, bytes and seconds as numbers; `notes` says what is assumed or not knowable yet.

    Loads neither torch nor Ray. Raises InputError when the recipe cannot fit this machine, with what would.
    """
    figures: Figures = {"kind": recipe.kind, "name": recipe.name, "notes": []}
    PLANS[recipe.kind](recipe, figures)
    return figures


def text(figures: Figures) -> str:
    """The figures for a person, one a line."""
    lines = [f"plan of {figures['kind']} {figures['name']}"]
    for key, value in figures.items():
        if key in ("kind", "name", "notes"):
            continue
        if isinstance(value, dict):
            lines.append(f"  {key.replace('_', ' ')}")
            lines += [f"    {part.replace('_', ' '):<18} {_show(part, number)}" for part, number in value.items()]
        else:
            lines.append(f"  {key.removesuffix('_bytes').replace('_', ' '):<20} {_show(key, value)}")
    return "\n".join([*lines, *(f"  note: {note}" for note in figures["notes"])])


def _show(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / GIB:.2f} GiB" if value >= GIB / 10 else f"{value / 2**20:.1f} MiB"
    if key == "flops":
        return f"{value:.3g}"
    if key == "hours":
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f} ({value * 60:.1f} minutes)"
    return f"{value:,}" if isinstance(value, int) else str(value)


# --- training --------------------------------------------------------------------------------------------------------


def _train(recipe: PretrainRecipe | FinetuneRecipe | TuneRecipe, figures: Figures) -> None:
    from manta.models import formulas
    from manta.train import schedule

    notes, resources = figures["notes"], recipe.resources
    seq_len, num_rows, vocab_size = _rows(recipe, notes)
    config = _config(recipe, vocab_size, notes)
    if recipe.batch.samples is not None or seq_len is not None:
        rows = schedule.batch_rows(recipe.batch, seq_len or 1)
        figures |= {"batch_rows": rows, "accumulation": schedule.accumulation(rows, resources)}
        if seq_len is not None and (recipe.stop.epochs is None or num_rows is not None):
            figures["steps"] = schedule.planned_steps(recipe.stop, rows, num_rows or 0, seq_len)
            figures["tokens"] = figures["steps"] * rows * seq_len
    trials = recipe.search.trials if isinstance(recipe, TuneRecipe) else 1
    if trials > 1:
        figures["trials"] = trials
    if config is None or seq_len is None:
        return
    positions = formulas.max_positions(config)
    if positions is not None and seq_len > positions:
        raise InputError(
            f"rows of {seq_len} tokens exceed the model's {positions} positions: set model.max_position_embeddings={seq_len}"
        )
    figures["parameters"] = formulas.num_parameters(config)
    moving = _trainable(recipe, config, figures["parameters"])
    if moving != figures["parameters"]:
        figures["trainable_parameters"] = moving
    _memory(recipe, config, seq_len, moving, figures)
    if "tokens" in figures:
        gpus = resources.workers * resources.gpus_per_worker
        cores = resources.workers * resources.cpus_per_worker
        arithmetic = _arithmetic(recipe)
        rate = gpus * FLOPS_PER_GPU[recipe.optimizer.precision] or cores * FLOPS_PER_CORE[arithmetic]
        figures["flops"] = figures["tokens"] * formulas.flops_per_token(config, seq_len) * trials
        figures["hours"] = figures["flops"] / rate / 3600
        notes.append(
            f"hours assume {rate / 1e12:.2g} useful TFLOP/s in all ({'H100 GPUs at 40% of peak' if gpus else f'AVX-512 cores, {arithmetic}'}), trials one after another"
        )


def _arithmetic(recipe: PretrainRecipe | FinetuneRecipe | TuneRecipe) -> str:
    """The key of FLOPS_PER_CORE that the workers' processors compute by; a cluster's are taken to be new."""
    from manta import doctor

    precision = recipe.optimizer.precision
    emulated = precision == "bf16" and recipe.resources.address is None and not doctor.bf16_in_hardware()
    return f"emulated {precision}" if emulated else precision


def _rows(
    recipe: PretrainRecipe | FinetuneRecipe | TuneRecipe, notes: list[str]
) -> tuple[int | None, int | None, int | None]:
    """Tokens of a row, training rows, vocabulary: None where the input is not there yet."""
    if not isinstance(recipe, PretrainRecipe):
        task = recipe.task
        length = task.max_tokens if task.name == "chat" else task.max_input_tokens + task.max_target_tokens
        manifest = artifact.read_manifest(artifact.Folder(artifact.locate(recipe.data.examples, recipe.output)))
        found = (manifest or {}).get("metrics", {}).get("train_examples")
        count = min(filter(None, (found, recipe.data.train_rows)), default=None)
        notes.append("rows are taken as long as the task allows; real ones are cut to the longest example")
        return length, count, None
    from manta.data.shards import load_index

    with contextlib.suppress(InputError):
        index = load_index(artifact.locate(recipe.data.shards, recipe.output))
        return index.seq_len, index.epoch_rows(), index.vocab_size
    notes.append(f"data.shards = {recipe.data.shards!r} is not there yet, so steps, memory and hours are not known")
    return None, None, None


def _config(
    recipe: PretrainRecipe | FinetuneRecipe | TuneRecipe, vocab_size: int | None, notes: list[str]
) -> dict[str, Any] | None:
    """config.json of the model that will be trained; None if its source is not there yet."""
    from manta.models import presets

    if isinstance(recipe.model, NewModel):
        presets.sizes(recipe.model)  # refuses sizes that do not fit each other
        objective = recipe.objective.name if isinstance(recipe, PretrainRecipe) else "clm"
        return presets.config(recipe.model, vocab_size, {}, objective) if vocab_size else None
    return _source_config("model.source", recipe.model.source, recipe.output, notes)


def _source_config(role: str, ref: str, output: str, notes: list[str]) -> dict[str, Any] | None:
    from manta.models.load import model_config

    if not ref.startswith("package:"):
        where = artifact.locate(ref, output)
        for url in (f"{where}/model", where):
            with contextlib.suppress(FileNotFoundError):
                return model_config(url)
    notes.append(f"{role} = {ref!r} is not there yet (or is a package), so the model's size is not known")
    return None


def _trainable(recipe: PretrainRecipe | FinetuneRecipe | TuneRecipe, config: dict[str, Any], parameters: int) -> int:
    from manta.models import formulas

    if isinstance(recipe, PretrainRecipe) or recipe.adapt.method == "full":
        return parameters
    if recipe.adapt.method == "freeze":
        layers = config["num_hidden_layers"]
        without = formulas.num_parameters(
            {**config, "num_hidden_layers": layers - min(layers, recipe.adapt.freeze_layers)}
        )
        return without - config["vocab_size"] * config["hidden_size"]
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    inner, keys = config["intermediate_size"], (config.get("num_key_value_heads") or heads) * head_dim
    sides = {
        "q_proj": hidden + heads * head_dim, "o_proj": hidden + heads * head_dim, "k_proj": hidden + keys, "v_proj": hidden + keys,
        "gate_proj": hidden + inner, "up_proj": hidden + inner, "down_proj": hidden + inner,
    }  # fmt: skip
    return int(
        config["num_hidden_layers"] * recipe.adapt.rank * sum(sides.get(name, 0) for name in recipe.adapt.targets)
    )


def _memory(
    recipe: PretrainRecipe | FinetuneRecipe | TuneRecipe,
    config: dict[str, Any],
    seq_len: int,
    moving: int,
    figures: Figures,
) -> None:
    """Memory of one worker by part, disk, and whether it fits: on this machine when the workers' CPUs are its own."""
    from manta.models import formulas

    resources, precision = recipe.resources, recipe.optimizer.precision

    def parts(micro_batch: int, stage: int) -> dict[str, int]:
        found = formulas.training_memory(config, seq_len, micro_batch, resources.workers, stage, precision, moving)
        found["process"] = WORKER_BYTES
        return {f"{name}_bytes": size for name, size in found.items()} | {"total_bytes": sum(found.values())}

    figures["memory_per_worker"] = mine = parts(resources.micro_batch, resources.zero_stage)
    weights = figures["parameters"] * formulas.BYTES[precision]
    state = weights + moving * (12 if precision == "bf16" else 8)
    trials = recipe.search.trials if isinstance(recipe, TuneRecipe) else 1
    figures["disk_bytes"] = trials * (
        (recipe.checkpoint.keep + 1) * state + weights
    )  # one more while the next is written
    if resources.address is not None or resources.gpus_per_worker:
        figures["notes"].append(
            "whether the memory suffices is for the cluster's nodes to say: compare the total above with theirs"
        )
        return
    at_once = resources.workers * (recipe.resources.concurrent_trials if isinstance(recipe, TuneRecipe) else 1)
    there = artifact.hardware()["memory_bytes"] - RAY_BYTES
    figures["memory_bytes"] = mine["total_bytes"] * at_once + RAY_BYTES
    if mine["total_bytes"] * at_once <= there:
        return
    fits = [
        f"resources.zero_stage={stage} resources.micro_batch={micro}"
        for stage in range(resources.zero_stage, 4)
        for micro in (resources.micro_batch, 1)
        if parts(micro, stage)["total_bytes"] * at_once <= there
    ]
    remedy = (
        f"set {fits[0]}"
        if fits
        else "choose a smaller model, or a cluster (resources.address) whose nodes have the memory"
    )
    raise InputError(
        f"{at_once} workers of {mine['total_bytes'] / GIB:.1f} GiB each need {figures['memory_bytes'] / GIB:.1f} GiB with Ray, this machine has "
        f"{(there + RAY_BYTES) / GIB:.1f} GiB: {remedy}"
    )


# --- the other kinds -------------------------------------------------------------------------------------------------


def _prepare(recipe: PrepareRecipe, figures: Figures) -> None:
    figures |= {
        "cpus": recipe.resources.cpus,
        "seq_len": recipe.data.seq_len,
        "vocab_size": recipe.tokenizer.vocab_size,
    }
    rate = TOKENISE_PER_CORE * recipe.resources.cpus
    figures["notes"].append(
        f"the size of the corpus is known once it is read; {rate:,.0f} tokens a second are typical, and each token takes about 2 bytes of disk"
    )


def _compress(recipe: CompressRecipe, figures: Figures) -> None:
    _whole_model("model.source", recipe.model.source, recipe.output, figures, copies=2, bytes_per_weight=4)
    if "parameters" in figures:
        figures["disk_bytes"] = figures["parameters"]  # int8


def _evaluate(recipe: EvaluateRecipe, figures: Figures) -> None:
    _whole_model("model.source", recipe.model.source, recipe.output, figures, copies=1, bytes_per_weight=4)


def _serve(recipe: ServeRecipe, figures: Figures) -> None:
    figures["replicas"] = recipe.serve.max_replicas
    width = 4 if recipe.serve.dtype == "float32" else 2
    extra = int(recipe.serve.kv_cache_gib * GIB)
    _whole_model("model.source", recipe.model.source, recipe.output, figures, recipe.serve.max_replicas, width, extra)


def _whole_model(
    role: str, ref: str, output: str, figures: Figures, copies: int, bytes_per_weight: int, extra: int = 0
) -> None:
    """Memory for `copies` of a model (and `extra` bytes for each), where it must fit this machine."""
    from manta.models import formulas

    config = _source_config(role, ref, output, figures["notes"])
    if config is None:
        return
    figures["parameters"] = formulas.num_parameters(config)
    each = figures["parameters"] * bytes_per_weight + extra
    figures["memory_bytes"] = copies * each + WORKER_BYTES + RAY_BYTES
    there = artifact.hardware()["memory_bytes"]
    if figures["memory_bytes"] > there:
        remedy = (
            "lower serve.max_replicas or serve.kv_cache_gib" if extra else "choose a smaller model or a larger machine"
        )
        raise InputError(
            f"{role} = {ref!r} needs about {figures['memory_bytes'] / GIB:.1f} GiB, this machine has {there / GIB:.1f} GiB: {remedy}"
        )


def _pipeline(recipe: PipelineRecipe, figures: Figures) -> None:
    figures["stages"] = len(recipe.stages)
    figures["notes"].append("each stage has a plan of its own")


PLANS: dict[str, Any] = {
    "prepare": _prepare,
    "pretrain": _train,
    "finetune": _train,
    "tune": _train,
    "compress": _compress,
    "evaluate": _evaluate,
    "serve": _serve,
    "pipeline": _pipeline,
}
