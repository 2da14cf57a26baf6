"""Which tasks a model answers: by what it was tuned for, else by the class that its config.json names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from manta import artifact as artifacts
from manta.artifact import Resolved
from manta.errors import InputError
from manta.sections.outcome import ServeModel
from manta.storage import Folder
from manta.tasks.encoding import seq2seq
from manta.tasks.encoding.markers import MARKERS

# Manta's task -> Hugging Face's.
TAUGHT = {
    "classification": "text-classification",
    "tagging": "token-classification",
    "relations": "relation-extraction",
    "answering": "question-answering",
    "embedding": "feature-extraction",
    "translation": "translation",
    "summarisation": "summarization",
}
# How the names of Transformers' classes end -> the task of their heads.
HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    # Other classes that end in ForPreTraining fill no gaps (ELECTRA's finds what was swapped).
    "BertForPreTraining": "fill-mask",
    "Model": "feature-extraction",
}
# Types of encoder-decoders -> what all directories of that type were taught.
WRITING = ("ForConditionalGeneration", "MTModel")
WRITERS = {"marian": ("translation",), "bart": ("summarization",), "pegasus": ("summarization",)}


def taught(model: Resolved) -> dict[str, Any] | None:
    """The task section of the recipe that tuned a model, through compression and sweeps; None where nothing tells."""
    kind, path = model.kind, model.path
    while kind not in ("directory", "package"):
        manifest = artifacts.read_manifest(Folder(path))
        if manifest is None:  # what it was compressed from is gone
            return None
        swept = kind == "tune"
        made = manifest["recipe"]["trial"] if swept else manifest["recipe"]
        if made.get("kind") != "compress":
            task = made.get("task")
            return dict(task) if task else None
        entry = manifest["inputs"].get("trial.model.source" if swept else "model.source")
        if entry is None:
            return None
        kind, path = entry["kind"], entry["path"]
    return None


def tasks_of(model: Resolved, folder: Folder, config: Mapping[str, Any], task: Mapping[str, Any] | None) -> tuple[str, ...]:  # fmt: skip
    """Hugging Face's names of the tasks that a model answers, () for a decoder that writes text.

    `task` is what `taught` found. Raises InputError for models that neither answer a task nor are served by vLLM.
    """
    architecture = (config.get("architectures") or [""])[0]
    named = f"{model.role} = {model.ref!r} is a {architecture or config.get('model_type')} model"
    if config.get("model_type") == "lstm":
        raise InputError(
            f"{named}, which no engine serves: open it with Transformers (its folder is a Hugging Face directory), or train another "
            "family of decoders, such as Llama or GPT-2"
        )
    found = None if architecture.endswith("LMHeadModel") else _head(architecture)
    if seq2seq.reads_apart(config) and found in (None, "feature-extraction"):
        return _written(model, config, architecture, task, named)
    if found is None and architecture.endswith("ForPreTraining"):
        raise InputError(f"{named}, which fills no gaps and answers no task: fine-tune it for one")
    if found == "text-classification" and ((task is not None and task["name"] == "relations") or _marks(folder)):
        return ("relation-extraction",)
    return (found,) if found else ()


def _head(architecture: str) -> str | None:
    return next((name for end, name in HEADS.items() if architecture.endswith(end)), None)


def _written(
    model: Resolved, config: Mapping[str, Any], architecture: str, task: Mapping[str, Any] | None, named: str
) -> tuple[str, ...]:
    """What an encoder-decoder answers."""
    if not architecture.endswith(WRITING):
        raise InputError(
            f"{named} without a head that writes text: fine-tune it for task.name=summarisation or translation"
        )
    if task is not None and task["name"] in TAUGHT:
        return (TAUGHT[task["name"]],)
    if model.kind != "directory":
        raise InputError(
            f"{named} that has learnt no task yet: `manta finetune` it for task.name=summarisation or translation, and serve that"
        )
    return WRITERS.get(str(config.get("model_type")), ("translation", "summarization"))


def refuse_unread(role: str, name: str, section: ServeModel, tasks: tuple[str, ...], gpus: int) -> None:
    """Raise InputError for settings of a model that are for those that write text."""
    if section.adapters:
        raise InputError(
            f"{role}.adapters = {', '.join(section.adapters)}: {name} answers {', '.join(tasks)}, and only models that write text have "
            "adapters: merge it (adapt.merge: true) and serve what comes of it"
        )
    if section.tool_parser is not None:
        raise InputError(
            f"{role}.tool_parser = {section.tool_parser!r}: {name} answers {', '.join(tasks)}, and calls no tools: leave it out"
        )
    if gpus > 1:
        raise InputError(
            f"{role}.gpus_per_replica = {gpus}: {name} answers {', '.join(tasks)} on one GPU: set it to 1, or more replicas"
        )


def mask_token(folder: Folder) -> str | None:
    """What a directory's tokenizer calls a gap."""
    if not folder.exists("tokenizer_config.json"):
        return None
    told = json.loads(folder.read_text("tokenizer_config.json")).get("mask_token")
    return told["content"] if isinstance(told, dict) else told


def _marks(folder: Folder) -> bool:
    """Whether a directory's tokenizer has the marks around two entities."""
    return folder.exists("tokenizer.json") and all(mark in folder.read_text("tokenizer.json") for mark in MARKERS)
