"""What a recipe follows from: the examples and how long they are, the model, the machine. Nothing here loads torch
for models of a known family."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta import artifact
from manta.artifact import Resolved
from manta.errors import InputError
from manta.models import classes, formulas, load
from manta.models.families import Kind
from manta.sections.tasks import Task
from manta.storage import Folder
from manta.tasks import TASKS

COUNTED = 2000  # examples whose tokens are counted
SHARE = 0.99  # of them, those that are to fit without being cut
TOKENIZER = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
TURN = 8  # tokens that a chat template puts around each message, and a tokenizer around a text, at most

Example = Mapping[str, Any]
Texts = Callable[
    [Example], Iterator[list[str]]
]  # of an example the alternatives, each a list of texts that stand together


@dataclass(frozen=True)
class Model:
    """What is known of a model from its config.json."""

    ref: str
    kind: Kind
    parameters: int
    positions: int | None
    folder: Folder
    taught: Mapping[str, Any] | None = None  # the task's settings of the run that left it
    learnt_from: str | None = None  # the hash of the examples that it was trained on
    kept_back: float | None = None  # the part of these that validated; None where another file did


@dataclass(frozen=True)
class Machine:
    cores: int
    memory_bytes: int
    gpus: int
    bf16: bool  # whether it multiplies bf16 itself


@dataclass(frozen=True)
class Facts:
    """All that choices are made by."""

    task: Mapping[str, Any]  # as a recipe's section
    train: int  # examples
    validation: int
    fraction: float | None  # of a file that is divided, the part that validates
    lengths: Mapping[
        str, tuple[int, int]
    ]  # setting of the task -> (tokens that SHARE of the examples have at most, the most)
    model: Model
    machine: Machine


def model(ref: str) -> Model:
    """Look at a model. Raises InputError where there is none."""
    found = _find(ref)
    folder = Folder(load.model_url(found))
    if not folder.exists("config.json"):
        raise InputError(
            f"--model {ref}: {folder.url} is not there: the run left an adapter alone, so name its base, or make the whole model "
            f"with `manta merge {ref} --output FOLDER`"
        )
    config = load.model_config(folder.url)
    return Model(
        ref,
        classes.kind(config),
        formulas.num_parameters(config),
        formulas.max_positions(config),
        folder,
        **_run(found),
    )


def _find(ref: str) -> Resolved:
    """Where a model is; not hashed, as the run itself does."""
    if ref.startswith("package:"):
        return Resolved("model.source", ref, "package", ref, "", "")
    folder = Folder(ref)
    if folder.exists(artifact.MANIFEST):
        return Resolved("model.source", ref, artifact.open_artifact(ref).kind, folder.url, "", "")
    if folder.exists("config.json"):
        return Resolved("model.source", ref, "directory", folder.url, "", "")
    what = "holds neither a run nor a model (config.json)" if folder.exists("") else "does not exist"
    raise InputError(
        f"--model {ref}: {folder.url} {what}: name a Hugging Face directory, a run such as runs/NAME, or package:NAME"
    )


def _run(found: Resolved) -> dict[str, Any]:
    """What the manifest of a fine-tuning run says of its task and its examples; {} for other models."""
    if found.kind not in ("finetune", "tune"):
        return {}
    manifest = artifact.read_manifest(Folder(found.path)) or {}
    recipe, inputs = manifest["recipe"], manifest["inputs"]
    if found.kind == "tune":
        recipe, inputs = recipe["trial"], {role.removeprefix("trial."): made for role, made in inputs.items()}
    if "task" not in recipe:
        return {}  # a sweep of other runs
    kept = None if "data.validation" in inputs else recipe["data"]["validation_fraction"]
    return {"taught": recipe["task"], "learnt_from": inputs["data.examples"]["content"], "kept_back": kept}


def machine() -> Machine:
    """This machine, as the stages see it."""
    from manta import hardware

    found = artifact.hardware()
    gpus = len(found["gpus"])
    return Machine(found["cores"], found["memory_bytes"], gpus, gpus > 0 or hardware.bf16_in_processor())


# --- lengths ---------------------------------------------------------------------------------------------------------


def _together(*names: str) -> Texts:
    return lambda example: iter([[example[name] for name in names if example.get(name)]])


def _apart(*names: str) -> Texts:
    return lambda example: ([example[name]] for name in names if example.get(name))


def _talk(example: Example) -> list[str]:
    if "messages" in example:
        return [message["content"] for message in example["messages"]]
    return [example[name] for name in ("input", "target") if name in example]


def _pair(example: Example) -> Iterator[list[str]]:
    asked = _talk({key: value for key, value in example.items() if key != "target"})
    return ([*asked, example[name]] for name in ("chosen", "rejected"))


# task -> its settings of lengths, each with the texts that have to fit in.
TEXTS: dict[str, dict[str, Texts]] = {
    "classification": {"max_tokens": _together("text", "text_pair")},
    "relations": {"max_tokens": _together("text")},
    "tagging": {"max_tokens": lambda example: iter([[" ".join(example["tokens"])]])},
    "chat": {"max_tokens": lambda example: iter([_talk(example)])},
    "summarisation": {"max_input_tokens": _together("input"), "max_target_tokens": _together("target")},
    "translation": {"max_input_tokens": _together("input"), "max_target_tokens": _together("target")},
    "preference": {"max_tokens": _pair},
    "embedding": {"max_tokens": _apart("text", "positive", "negative")},
}


TALKS = ("chat", "preference")  # whose length is that of a whole conversation, as the template writes it


def lengths(task: Task, examples: Sequence[Example], found: Model) -> dict[str, tuple[int, int]]:
    """Of each setting of the task's lengths what SHARE of the examples need at most, and the most that one needs.

    In tokens of the model's own tokenizer, with room for what is put around texts; the words that stand before an
    encoder-decoder's input follow from the recipe's section `task`. Of many examples COUNTED are looked at, spread
    evenly. Empty for a model without tokenizer.json, and for tasks whose rows have one length anyway.
    """
    if task.name not in TEXTS or not examples or not found.folder.exists("tokenizer.json"):
        return {}
    counter = _counter(found.folder)
    step = max(1, len(examples) // COUNTED)
    before = _before(found.folder) if task.name in TALKS else 0
    return {
        name: _percentile([before + max(map(counter, texts(example)), default=0) for example in examples[::step]])
        for name, texts in (TEXTS[task.name] | _read_apart(task, found)).items()
    }


def _read_apart(task: Task, found: Model) -> dict[str, Texts]:
    """What an encoder reads of an example, with the words before it, where a decoder of its own answers; else nothing."""
    from manta.tasks.encoding import seq2seq

    config = load.model_config(found.folder.url)
    if not seq2seq.teaches(task, config):
        return {}
    return {"max_input_tokens": lambda example: iter([[seq2seq.source(example, TASKS[task.name], task, config)]])}


def _counter(folder: Folder) -> Callable[[Sequence[str]], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(folder.read_text("tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> int:
        return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) + TURN for text in texts)

    return count


def _before(folder: Folder) -> int:
    """Tokens that a chat template puts before a conversation, beyond TURN: some bring a system prompt of their own."""
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:  # the weights, which may lie far away, stay there
        for name in TOKENIZER:
            if folder.exists(name):
                Path(scratch, name).write_text(folder.read_text(name), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(scratch, local_files_only=True)
    if tokenizer.chat_template is None:
        return 0
    try:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], return_dict=False)
    except TemplateError:  # which is told, with what to do, where rows are made
        return 0
    return max(0, len(ids) - TURN - 1)


def _percentile(values: Sequence[int]) -> tuple[int, int]:
    """(the smallest value that SHARE of all do not exceed, the largest)"""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(SHARE * len(ranked)) - 1)], ranked[-1]
