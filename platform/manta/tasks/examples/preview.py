"""The first rows of a fine-tuning run as they will be learnt from: fields, tokens with the learnt ones marked, labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from manta import artifact as artifacts
from manta import mix
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.data.shards import load_index
from manta.errors import InputError, MantaError
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.tasks import Task
from manta.storage import Folder
from manta.tasks import ANSWERING, COMPARING, TASKS, WINDOWED, examples, labels
from manta.tasks.encoding import rows, seq2seq
from manta.tasks.encoding.conversation import IGNORED, Example

ROWS = 3
CHARS = 160  # of a field
HEAD, LEARNT = 8, 24  # tokens shown of a long row: its first ones, and those from the first learnt one on
NO_CONFIG: seq2seq.Config = {}
# Reads the tokenizer where PyTorch is not to be found: with it, importing transformers takes several times as long.
CHILD = "import sys; sys.modules['torch'] = None; from manta.tasks.examples import preview; preview.child()"


def show(recipe: FinetuneRecipe) -> list[str]:
    """`lines` of each stream of the recipe, or the sentence that says what is not there yet."""
    inputs = inputs_of(recipe)
    if isinstance(inputs, str) or not recipe.mix:
        return [inputs] if isinstance(inputs, str) else lines(recipe, inputs)
    said, streams = list[str](), mix.streams(recipe)
    for stream in streams:
        share = stream.share / sum(each.share for each in streams)
        said.append(f"{stream.name} ({stream.path or 'the own task'}), {share:.4g} of the steps")
        with stream.named():
            said += _of_stream(stream.recipe, stream.inputs(inputs))
    return said


def _of_stream(recipe: mix.Side, inputs: Mapping[str, Resolved]) -> list[str]:
    if not isinstance(recipe, PretrainRecipe):
        return lines(recipe, inputs)
    index = load_index(inputs["data.shards"].path)
    rows = [index.rows(split) for split in ("train", "validation")]
    return [f"rows of {index.seq_len} tokens of text, {rows[0]:,} to train on and {rows[1]:,} to validate with"]


def inputs_of(recipe: FinetuneRecipe) -> dict[str, Resolved] | str:
    """The inputs of a recipe, found but not hashed; or the sentence that says which is not there yet."""
    found = {}
    for role, (ref, _) in recipes.input_refs(recipe).items():
        path = artifacts.locate(ref, recipe.output)
        folder = Folder(path)
        if ref.startswith("package:"):
            kind = "package"
        elif folder.is_file():
            kind = "file"
        elif folder.exists(artifacts.COMPLETE):
            kind = str((artifacts.read_manifest(folder) or {}).get("kind"))
        elif folder.exists("config.json"):
            kind = "directory"
        else:
            return f"{role} = {ref!r} is not there yet, so no rows are shown"
        found[role] = Resolved(role, ref, kind, path, "", "")
    return found


def lines(recipe: FinetuneRecipe, inputs: Mapping[str, Resolved]) -> list[str]:
    """What is doubtful in the examples, and the first training rows. Raises InputError for examples that cannot be used.

    Without a local model directory the fields alone are shown. PyTorch is not loaded.
    """
    loaded = examples.check(inputs, recipe.data, recipe.task)
    found = rows.chosen(recipe, loaded)
    known = rows.collect(recipe, found)
    shown = found["train"][:ROWS]
    said = [
        *loaded.notes,
        f"{len(found['train'])} training and {len(found['validation'])} validation examples; the first:",
    ]
    model = _local(inputs["model.source"])
    if model is None:
        said.append("(model.source is no local directory, so their tokens are not shown)")
        encoded: list[list[str]] = [[] for _ in shown]
    else:
        asked = {"task": recipe.task.model_dump(), "model": str(model), "examples": shown}
        encoded = _asked(asked | {"labels": asdict(known) if known else None})
    for number, (example, described) in enumerate(zip(shown, encoded, strict=True), 1):
        said.append(f"example {number}")
        said += [f"  {name}: {_short(json.dumps(value, ensure_ascii=False))}" for name, value in example.items()]
        said += [f"  {line}" for line in described]
    return said


def describe(
    task: Task, example: Example, tokenizer: Any, known: labels.Labels | None, config: seq2seq.Config = NO_CONFIG
) -> list[str]:
    """Lines about one example: its tokens, the learnt ones in «», and what is learnt of it as a whole.

    `config` is the model's config.json, which says whether an encoder and a decoder read apart.
    """
    module = TASKS[task.name]
    if task.name in COMPARING:
        return _sides(module, module.encode(example, tokenizer, task), tokenizer)
    answering = task.name in ANSWERING
    if seq2seq.teaches(task, config):
        return _apart(seq2seq.encode(example, tokenizer, task, config, module), tokenizer)
    if task.name in WINDOWED:
        return _windows(module.encode(example, tokenizer, task, known), tokenizer)
    made = module.encode(example, tokenizer, task) if answering else module.encode(example, tokenizer, task, known)
    ids, learnt = made.columns["input_ids"], made.columns["labels"]
    along = answering or "labels" in module.PADDED
    named = None if answering or known is None else known.names
    marks: list[str | None] = [_mark(label, named) for label in learnt] if along else [None] * len(ids)
    cut = ", cut" if made.truncated else ""
    said = [f"{len(ids)} tokens{cut}: {_row([tokenizer.decode([number]) for number in ids], marks)}"]
    if along:
        count = sum(mark is not None for mark in marks)
        return [*said, f"labels: {count} of {len(ids)} tokens are learnt"]
    if named is None:
        return said
    held = (
        [name for name, holds in zip(named, learnt, strict=True) if holds]
        if isinstance(learnt, list)
        else [named[learnt]]
    )
    return [*said, f"labels: {', '.join(held) or 'none'} (of {len(named)})"]


def _apart(made: labels.Row, tokenizer: Any) -> list[str]:
    """What the encoder reads, and what the decoder learns."""
    read, learnt = ([tokenizer.decode([number]) for number in made.columns[name]] for name in ("input_ids", "labels"))
    cut = ", cut" if made.truncated else ""
    return [
        f"{len(read)} tokens{cut}: {_row(read, [None] * len(read))}",
        f"answer: {len(learnt)} tokens: {_row(learnt, [''] * len(learnt))}",
    ]


def _windows(made: Sequence[labels.Row], tokenizer: Any) -> list[str]:
    """A line for each window of a context, the answer's tokens in «», and what it learns."""
    said = []
    for number, row in enumerate(made, 1):
        ids, first, last = (row.columns[name] for name in ("input_ids", "start_positions", "end_positions"))
        span = range(first, last + 1) if first not in (IGNORED, row.columns["none"]) else range(0)
        marks = ["" if place in span else None for place in range(len(ids))]
        told = "not learnt: no window holds the whole answer" if first == IGNORED else "answer" if span else "no answer"
        tokens = _row([tokenizer.decode([token]) for token in ids], marks)
        said.append(f"window {number} of {len(made)}, {len(ids)} tokens, {told}: {tokens}")
    return said


def _sides(module: Any, made: labels.Row, tokenizer: Any) -> list[str]:
    """A line for each of the texts that a row holds side by side, without what fills up the shorter ones."""
    said = []
    for name, prefix in module.PARTS.items():
        if (ids := made.columns.get(f"{prefix}input_ids")) is None:
            continue
        learnt = made.columns.get(f"{prefix}labels")
        along = learnt if isinstance(learnt, list) else [IGNORED] * len(ids)
        marks = [_mark(label, None) for label in along]
        shown = made.columns.get(f"{prefix}attention_mask") or [mark is not None for mark in marks]
        length = max((place + 1 for place, there in enumerate(shown) if there), default=len(ids))
        tokens = [tokenizer.decode([number]) for number in ids[:length]]
        said.append(f"{name}: {length} tokens: {_row(tokens, marks[:length])}")
    return [*said, "cut at task.max_tokens"] if made.truncated else said


def child() -> None:
    """The other process: a request on stdin, {"lines"} or {"refused"} on stdout."""
    asked = json.load(sys.stdin)
    task: Task = TypeAdapter(Task).validate_python(asked["task"])
    given = asked["labels"]
    known = labels.Labels(tuple(given["names"]), tuple(given["counts"]), given["problem"]) if given else None
    answer: dict[str, Any]
    try:
        tokenizer = _tokenizer(asked["model"], task)
        file = Path(asked["model"]) / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else NO_CONFIG
        if seq2seq.teaches(task, config):
            seq2seq.check(tokenizer, config)
        answer = {"lines": [describe(task, example, tokenizer, known, config) for example in asked["examples"]]}
    except MantaError as error:
        answer = {"refused": str(error)}
    json.dump(answer, sys.stdout)


def _tokenizer(model: str, task: Task) -> Any:
    """The tokenizer of a directory. Raises InputError for files that are none: what they hold is the user's."""
    try:
        return labels.tokenizer(Path(model), getattr(TASKS[task.name], "TOKENS", ()))
    except Exception as error:
        raise InputError(
            f"model.source: the tokenizer in {model} cannot be used: {type(error).__name__}: {error}"
        ) from error


def _asked(request: dict[str, Any]) -> list[list[str]]:
    """The lines of each example. Raises InputError with what the tokenizer's process says of them."""
    env = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(request), env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the process that shows examples ended with {done.returncode}:\n{done.stderr.strip()}")
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise InputError(answer["refused"])
    return list(answer["lines"])


def _local(model: Resolved) -> Path | None:
    """The folder with the tokenizer, if it is on this machine."""
    if model.kind == "package":
        return None
    folder = Folder(model.path if model.kind == "directory" else f"{model.path}/model")
    return folder.local_path if folder.exists("tokenizer_config.json") else None


def _mark(label: int, names: Sequence[str] | None) -> str | None:
    """None for a token that is not learnt; the label's name, or nothing where the token itself is learnt."""
    if label == IGNORED:
        return None
    return names[label] if names is not None else ""


def _row(tokens: list[str], marks: list[str | None]) -> str:
    """Tokens between bars; of a long row the beginning and the first learnt ones."""
    first = next((place for place, mark in enumerate(marks) if mark is not None), HEAD)
    shown = [*range(min(HEAD, len(tokens))), *range(max(HEAD, first - 2), min(first + LEARNT, len(tokens)))]
    parts, before = [], -1
    for place in shown:
        parts += ["..."] if place > before + 1 else []
        before, mark = place, marks[place]
        text = json.dumps(tokens[place], ensure_ascii=False)[1:-1]
        parts.append(text if mark is None else f"«{text}{'=' + mark if mark else ''}»")
    return "|".join([*parts, *(["..."] if before + 1 < len(tokens) else [])])


def _short(text: str) -> str:
    return text if len(text) <= CHARS else f"{text[: CHARS - 3]}..."
