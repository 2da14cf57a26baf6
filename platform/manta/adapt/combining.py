"""Adapters beside their base, as peft loads them: one, or several put together into one by weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from manta.adapt import merging
from manta.adapt.writing import Writers, write_adapter, write_model
from manta.errors import InputError

NAME = "default"  # peft's, of the one adapter that there is in the end
# How several become one -> whether it takes a share of the values that are kept. Those of `cat` and `svd` are of the
# updates themselves; the others work on A and B apart, as peft has them, which is rough.
METHODS = {"cat": False, "svd": False, "linear": False, "ties": True, "dare_linear": True, "dare_ties": True}
# PEFT's word for what a model is for -> the objective whose class of Transformers it is.
OBJECTIVES = {
    "CAUSAL_LM": "clm", "SEQ_2_SEQ_LM": "denoising", "SEQ_CLS": "sequence_labels", "TOKEN_CLS": "token_labels",
    "QUESTION_ANS": "spans", "FEATURE_EXTRACTION": "contrast",
}  # fmt: skip
LABELLED = ("sequence_labels", "token_labels")
HEADS = ("classifier.weight", "score.weight", "qa_outputs.weight")


class Weighted(NamedTuple):
    """A PEFT directory on this machine, and how much it counts."""

    folder: Path
    weight: float = 1.0


class Loaded(NamedTuple):
    """A base with one adapter beside its weights; `config` is the adapter's."""

    model: Any
    config: Mapping[str, Any]


def load(
    base: Path,
    adapters: Sequence[Weighted],
    method: str,
    density: float | None,
    seed: int,
    head: Mapping[str, Any] | None,
) -> Loaded:
    """The base, in its own precision, with the adapter, or with what the adapters become together.

    Of updates D_i = s_i B_i A_i with weights w_i: `cat` is the sum of w_i D_i exactly, its rank the sum of the ranks;
    `svd` the best approximation of that sum with the largest of the ranks. `linear`, `ties` (arXiv:2306.01708) and
    `dare_linear`, `dare_ties` (arXiv:2311.03099, random by `seed`) put the A and the B together apart, of equal ranks;
    the last three keep `density` of the values. `head` is what the configuration is to say of a head's labels.

    Raises InputError for adapters that peft does not know, or that cannot be put together.
    """
    import torch
    from peft import PeftModel

    from manta.models import load as models

    configs = [_config(adapter.folder) for adapter in adapters]
    if len(adapters) > 1:
        _check(adapters, configs, method, density)
    elif adapters[0].weight != 1.0:
        _check(adapters, configs, "cat", None)
    named = json.loads((base / "config.json").read_text(encoding="utf-8"))
    precise = named.get("dtype") or named.get("torch_dtype")
    objective = OBJECTIVES.get(str(configs[0].get("task_type")), "clm")
    # A configuration may name labels without a head for them; they would make the output layer a new head.
    head = (head or _head(adapters[0].folder)) if objective in LABELLED else None
    bare = models.load(
        base,
        "bf16" if precise == "bfloat16" else "fp32",
        objective,
        seed,
        lambda _: None,
        head,
    )
    if len(adapters) == 1 and adapters[0].weight == 1.0:
        return Loaded(PeftModel.from_pretrained(bare, str(adapters[0].folder), adapter_name=NAME), configs[0])
    names = [f"given{number}" for number in range(len(adapters))]
    model = PeftModel.from_pretrained(bare, str(adapters[0].folder), adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(str(adapter.folder), adapter_name=name)
    # peft gives the whole the first one's settings, and a scale of 1 only without this one.
    model.peft_config[names[0]] = replace(model.peft_config[names[0]], use_rslora=False)
    torch.manual_seed(seed)
    kept = {"density": density} if METHODS[method] else {}
    with torch.no_grad():
        model.add_weighted_adapter(
            names, [adapter.weight for adapter in adapters], NAME, combination_type=method, **kept
        )
    model.set_adapter(NAME)
    for name in names:
        model.delete_adapter(name)
    return Loaded(model, configs[0])


def export(loaded: Loaded) -> Writers:
    """What can be written of it: the adapter as a PEFT directory, and the model that has taken it in."""
    from peft import get_peft_model_state_dict

    model = loaded.model
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    learnt = get_peft_model_state_dict(model, state_dict=weights, adapter_name=NAME, save_embedding_layers=False)
    return {
        "adapter": lambda folder: write_adapter(model, learnt, folder),
        "model": lambda folder: write_model(model.get_base_model(), merging.merge(model, weights), folder),
    }


def export_unmerged(loaded: Loaded) -> Writers:
    """The model without what the adapter once added to it: `loaded` is of a merged model as its own base."""
    model = loaded.model
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return {"model": lambda folder: write_model(model.get_base_model(), merging.unmerge(model, weights), folder)}


def _config(folder: Path) -> Mapping[str, Any]:
    found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if found.get("peft_type") not in ("LORA", "IA3"):
        raise InputError(
            f"{folder} is an adapter of type {found.get('peft_type')}, which is no part of a model's weights: lora, dora and ia3 "
            "can be merged"
        )
    return dict(found)


def _check(
    adapters: Sequence[Weighted], configs: Sequence[Mapping[str, Any]], method: str, density: float | None
) -> None:
    """Raise InputError for what cannot be put together, or would come out wrong without a word."""
    for adapter, config in zip(adapters, configs, strict=True):
        if config["peft_type"] != "LORA" or config.get("use_dora"):
            kind = "dora" if config.get("use_dora") else str(config["peft_type"]).lower()
            raise InputError(
                f"{adapter.folder} is of method {kind}: only lora's updates can be weighted and added up: merge it by itself"
            )
        if config.get("modules_to_save"):
            raise InputError(
                f"{adapter.folder} holds a head ({', '.join(config['modules_to_save'])}), of which a model has one: merge it by itself"
            )
    ranks = {config["r"] for config in configs}
    if method not in ("cat", "svd") and len(ranks) > 1:
        raise InputError(
            f"--method {method} adds matrices of equal ranks, and these are of {sorted(ranks)}: use --method cat or svd"
        )
    if METHODS[method] and density is None:
        raise InputError(f"--method {method} keeps a share of the values: add --density, such as --density 0.5")
    if density is not None and not METHODS[method]:
        readers = ", ".join(name for name, reads in METHODS.items() if reads)
        raise InputError(f"--density {density} is not read by --method {method}: leave it out, or use one of {readers}")
    if density is not None and not 0.0 < density <= 1.0:
        raise InputError(f"--density {density}: a share above 0, and 1 at most")


def _head(folder: Path) -> dict[str, Any]:
    """As many labels as the adapter's own head tells apart."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        sizes = [file.get_slice(name).get_shape()[0] for name in file.keys() if name.endswith(HEADS)]  # noqa: SIM118
    if not sizes:
        raise InputError(
            f"{folder} holds no head, and its task needs one: name an adapter that was saved with its head"
        )
    names = {number: f"LABEL_{number}" for number in range(sizes[0])}
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}
