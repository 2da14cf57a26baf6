"""LoRA adapters of a served model: what the engine takes, checked against the model before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from manta import artifact as artifacts
from manta.artifact import Resolved
from manta.errors import InputError
from manta.storage import Folder
from serving.proof import compressed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM makes room
WITHOUT_LORA = ("gpt2", "gpt_neox", "gptj", "bloom", "falcon", "mpt")  # types of model to which vLLM takes no adapter
# What PEFT may add to LoRA and vLLM leaves out, mostly without a word.
NOT_TAKEN = ("use_dora", "bias", "lora_bias", "modules_to_save", "trainable_token_indices", "alora_invocation_tokens", "layer_replication", "use_qalora", "use_bdlora")  # fmt: skip
# Ways to begin that change the weights of the base too.
OTHER_BASE = ("pissa", "olora", "corda", "loftq")
PEFT_PREFIX = "base_model.model."

Shapes = Mapping[str, tuple[int, ...]]


def find_adapter(given: Resolved) -> str:
    """Path or URL of the PEFT directory of an input. Raises InputError where it holds none."""
    folder = Folder(given.path) if given.kind == "adapter" else Folder(given.path) / "adapter"
    if not folder.exists(CONFIG):
        raise InputError(
            f"{given.role} = {given.ref!r}: {folder.url} holds no adapter ({CONFIG}): run its stage with adapt.method=lora, or name "
            "what it made as a model of its own"
        )
    return folder.url


def require_fit(
    given: Resolved, adapter: Folder, model: Resolved, base: Folder, config: Mapping[str, Any], gpus: int
) -> int:
    """Refuse an adapter that `base` (a Hugging Face directory, with its config.json) would not load, or not as it was meant.

    Returns its rank. Raises InputError.
    """
    said = f"{given.role} = {given.ref!r}"
    if config.get("model_type") in WITHOUT_LORA:
        raise InputError(
            f"{said}: the engine takes no adapters of {config['model_type']} models: merge it (`manta merge`) and serve the result"
        )
    if config.get("quantization_config") and not gpus:  # vLLM 0.32 looks for weights that its int8 kernel has put away
        raise InputError(
            f"{said}: on CPUs the engine takes no adapters of quantised models, as {model.role} = {model.ref!r} is: serve it on what "
            "that was made from, or with resources.gpus_per_replica"
        )
    settings = json.loads(adapter.read_text(CONFIG))
    rank = _require_lora(said, settings)
    if not adapter.exists(WEIGHTS):
        raise InputError(f"{said}: {adapter.url} has no {WEIGHTS}: save it again with safe_serialization=True")
    _require_base(said, given, model)
    _require_shapes(said, shapes(adapter, [WEIGHTS]), _shapes_of_model(base), model)
    return rank


def room(ranks: list[int]) -> int:
    """The smallest rank of the engine's that all of these go into."""
    return next(one for one in RANKS if one >= max(ranks))


def _require_lora(said: str, settings: Mapping[str, Any]) -> int:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise InputError(
            f"{said} is an adapter of type {kind}, and the engine takes LoRA: tune with adapt.method=lora, or merge it (`manta merge`) "
            "and serve the result"
        )
    strange = [
        f"{key}={settings[key]!r}" for key in NOT_TAKEN if settings.get(key) not in (None, False, [], {}, "none")
    ]
    begun = settings.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(OTHER_BASE):
        strange.append(f"init_lora_weights={begun!r}")
    if strange:
        raise InputError(
            f"{said} has {', '.join(strange)}, which the engine leaves out: merge it (`manta merge`) and serve the result"
        )
    rank = max([settings["r"], *(settings.get("rank_pattern") or {}).values()])
    if rank > RANKS[-1]:
        raise InputError(
            f"{said} has rank {rank}, over the engine's {RANKS[-1]}: merge it (`manta merge`) and serve the result, or tune with a "
            "lower adapt.rank"
        )
    return int(rank)


def _require_base(said: str, given: Resolved, model: Resolved) -> None:
    """Runs tell what they were tuned from. Of plain directories only the shapes can be compared."""
    if given.kind == "adapter" or model.kind == "directory":
        return
    inputs = artifacts.open_artifact(given.path).manifest["inputs"]
    base = inputs.get("model.source") or inputs["trial.model.source"]
    if base["fingerprint"] not in _same_weights(model):
        raise InputError(
            f"{said} was tuned from {base['ref']!r} ({base['fingerprint'][:12]}), and {model.role} = {model.ref!r} "
            f"({model.fingerprint[:12]}) is another model: serve it on the one it was tuned from, or tune it from this one"
        )


def _same_weights(model: Resolved) -> set[str]:
    """The fingerprint of a model, and of what it was compressed from."""
    found, known = {model.fingerprint}, model
    while known.kind in ("compress", "tune") and compressed(known):
        inputs = artifacts.open_artifact(known.path).manifest["inputs"]
        role = "model.source" if "model.source" in inputs else "trial.model.source"
        known = Resolved(role, **inputs[role])
        found.add(known.fingerprint)
    return found


def _require_shapes(said: str, adapter: Shapes, base: Shapes, model: Resolved) -> None:
    """Hold each matrix of an adapter against the weight that it is added to, where that is stored plainly."""
    modules = {name.rpartition(".")[0] for name in base}
    other = f"it was made for another model than {model.role} = {model.ref!r}: serve it on the one it was tuned from"
    for name, shape in adapter.items():
        module, _, matrix = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".lora_")
        tied = module.rpartition(".")[2] == "lm_head"  # the head may be the embeddings, which are stored once
        if module not in modules and not tied:
            raise InputError(f"{said} changes {module}, which the model does not have: {other}")
        weight = base.get(f"{module}.weight")
        if weight is None or len(weight) != 2:
            continue
        # Of linear layers (output, input): A is (rank, input), B (output, rank). Embeddings are stored the other way round.
        outward, inward = reversed(weight) if matrix.startswith("embedding") else weight
        fits = shape[1] == inward if matrix.endswith("A") else shape[0] == outward
        if not fits:
            raise InputError(f"{said} has {list(shape)} for {module}, which is {list(weight)} in the model: {other}")


def _shapes_of_model(folder: Folder) -> Shapes:
    index = "model.safetensors.index.json"
    names = ["model.safetensors"]
    if folder.exists(index):
        names = sorted(set(json.loads(folder.read_text(index))["weight_map"].values()))
    return shapes(folder, names)


def shapes(folder: Folder, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape of safetensors files, from their headers alone: 8 bytes (its length, little-endian), then JSON."""
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        length = int.from_bytes(folder.first_bytes(name, 8), "little")
        header = json.loads(folder.first_bytes(name, 8 + length)[8:])
        found |= {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    return found
