"""Plans of the stages that do not train: prepare, compress, evaluate, generate, serve, and a pipeline's own."""

from __future__ import annotations

from manta import artifact
from manta.errors import InputError
from manta.plan import sources
from manta.plan.figures import GIB, RAY_BYTES, WORKER_BYTES, Figures, Given
from manta.schema import CompressRecipe, EvaluateRecipe, GenerateRecipe, PipelineRecipe, PrepareRecipe, ServeRecipe

TOKENISE_PER_CORE = 1.0e6  # tokens a second


def prepare(recipe: PrepareRecipe, figures: Figures, _: Given) -> None:
    figures |= {
        "cpus": recipe.resources.cpus,
        "seq_len": recipe.data.seq_len,
        "vocab_size": recipe.tokenizer.vocab_size,
    }
    rate = TOKENISE_PER_CORE * recipe.resources.cpus
    figures["notes"].append(
        f"the size of the corpus is known once it is read; {rate:,.0f} tokens a second are typical, and each token takes about 2 bytes of disk"
    )


def compress(recipe: CompressRecipe, figures: Figures, _: Given) -> None:
    # Quantisation reads and writes block after block; what cuts holds the model and what becomes of it.
    copies = 1 if list(recipe.compress.parts) == ["quantise"] else 2
    _whole_model("model.source", recipe.model.source, recipe.output, figures, copies, bytes_per_weight=4)
    if "parameters" in figures:
        figures["disk_bytes"] = figures["parameters"]  # int8


def evaluate(recipe: EvaluateRecipe, figures: Figures, _: Given) -> None:
    _whole_model("model.source", recipe.model.source, recipe.output, figures, copies=1, bytes_per_weight=4)


def generate(recipe: GenerateRecipe, figures: Figures, _: Given) -> None:
    width = 4 if recipe.generate.dtype == "float32" else 2
    _whole_model("model.source", recipe.model.source, recipe.output, figures, recipe.resources.workers, width)


def serve(recipe: ServeRecipe, figures: Figures, _: Given) -> None:
    settings, replicas, parameters, needed = recipe.serve, 0, 0, WORKER_BYTES + RAY_BYTES
    for name, section in recipe.sections.items():
        of_one: Figures = {"notes": figures["notes"]}
        copies = section.max_replicas or settings.max_replicas
        width = 4 if (section.dtype or settings.dtype) == "float32" else 2
        extra = int((section.kv_cache_gib or settings.kv_cache_gib) * GIB)
        _whole_model(f"{recipe.role(name)}.source", section.source, recipe.output, of_one, copies, width, extra)
        replicas += copies
        parameters += of_one.get("parameters", 0)
        needed += of_one.get("memory_bytes", WORKER_BYTES + RAY_BYTES) - WORKER_BYTES - RAY_BYTES
    figures["replicas"] = replicas
    if parameters:
        figures |= {"parameters": parameters, "memory_bytes": needed}
        _refuse_too_large(
            f"models = {', '.join(recipe.sections)} need", figures, "lower serve.max_replicas or serve.kv_cache_gib"
        )


def _whole_model(
    role: str, ref: str, output: str, figures: Figures, copies: int, bytes_per_weight: int, extra: int = 0
) -> None:
    """Memory for `copies` of a model (and `extra` bytes for each), where it must fit this machine."""
    from manta.models import formulas

    config = sources.source_config(role, ref, output, figures["notes"])
    if config is None:
        return
    figures["parameters"] = formulas.num_parameters(config)
    each = figures["parameters"] * bytes_per_weight + extra
    figures["memory_bytes"] = copies * each + WORKER_BYTES + RAY_BYTES
    remedy = "lower serve.max_replicas or serve.kv_cache_gib" if extra else "choose a smaller model or a larger machine"
    _refuse_too_large(f"{role} = {ref!r} needs", figures, remedy)


def _refuse_too_large(what: str, figures: Figures, remedy: str) -> None:
    there = artifact.hardware()["memory_bytes"]
    if figures["memory_bytes"] > there:
        raise InputError(
            f"{what} about {figures['memory_bytes'] / GIB:.1f} GiB, this machine has {there / GIB:.1f} GiB: {remedy}"
        )


def pipeline(recipe: PipelineRecipe, figures: Figures, _: Given) -> None:
    figures["stages"] = len(recipe.stages)
    figures["notes"].append("each stage has a plan of its own")
