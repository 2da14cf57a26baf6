"""The recipe that a few words mean: checks the file, asks for the choices, and writes it all down beside the reasons."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta import artifact
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.errors import InputError
from manta.quick import choices, columns, facts, names, yaml_text
from manta.quick.choices import Choice
from manta.quick.facts import Facts
from manta.schema import KINDS, EvaluateRecipe, FinetuneRecipe, TuneRecipe
from manta.sections.base import Input
from manta.storage import Folder

LONG = 80  # characters of a setting beyond which its reason is not lined up with the others
WRITTEN = "# Written by `manta "
FILE = Input(("file", "prepare"))
UNDECIDED: dict[str, dict[str, Any]] = {
    "batch": {"samples": 8},
    "stop": {"epochs": 1.0},
}  # stand in until the examples are counted


@dataclass(frozen=True)
class Words:
    """What stands on the command line. Paths are as typed."""

    command: str  # finetune or evaluate
    model: str
    data: str
    task: str | None = None
    validation: str | None = None
    overrides: Sequence[str] = ()

    def __str__(self) -> str:
        options = {"--model": self.model, "--task": self.task, "--data": self.data, "--validation": self.validation}
        words = [word for option, value in options.items() if value is not None for word in (option, value)]
        return shlex.join(["manta", self.command, *words, *self.overrides])


@dataclass(frozen=True)
class Made:
    """A recipe, the file that holds it, and what is to be said of it."""

    recipe: FinetuneRecipe | EvaluateRecipe | TuneRecipe
    file: Path
    text: str
    choices: tuple[Choice, ...]
    told: tuple[str, ...]

    def write(self) -> None:
        """Leave the file, unless it is there already."""
        if not self.file.exists() or self.file.read_text(encoding="utf-8") != self.text:
            self.file.write_text(self.text, encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        """What was decided, as plain data."""
        decided = [choice._asdict() for choice in self.choices]
        return {"told": list(self.told), "choices": decided, "file": f"./{self.file}", "command": self.again}

    def shown(self, written: bool) -> str:
        """What was decided, as a list of settings with their reasons."""
        settings = [f"{choice.path}={yaml_text.plain(choice.value)}" for choice in self.choices]
        width = max((len(setting) for setting in settings if len(setting) <= LONG), default=0)
        listed = [
            f"  {setting:{width}}  {choice.reason}" for setting, choice in zip(settings, self.choices, strict=True)
        ]
        end = (
            f"recipe: ./{self.file}; again: {self.again}"
            if written
            else f"without --dry-run: written to ./{self.file}, and started"
        )
        return "\n".join([*self.told, *listed, end])

    @property
    def again(self) -> str:
        """The command that does the same by the recipe."""
        return shlex.join(["manta", self.recipe.kind, f"./{self.file.name}"])


def make(words: Words, replace: bool = False) -> Made:
    """The recipe of some words. Nothing is written or started.

    Raises InputError for a file or model that cannot be used, RecipeError for overrides that do not fit. With `replace`
    a recipe of the same name that was made like this is made again; any other stays, and this one gets a number.
    """
    raw = recipes.override({"kind": words.command, "name": "undecided"}, words.overrides)
    section = ("task",) if words.command == "finetune" else ("evaluate", "task")
    own = _at(raw, section)
    task, why = _task(words, own, _at(raw, ("data", "columns")))
    _put(raw, section, {**task, **own, "name": task["name"]})
    _put(raw, ("data", "examples"), ref(words.data))
    _put(raw, ("model", "source"), ref(words.model))
    if words.validation is not None:
        _put(raw, ("data", "validation"), ref(words.validation))
    found, told, made = (_finetune if words.command == "finetune" else _evaluate)(raw)
    for choice in made:
        recipes.set_path(raw, choice.path, choice.value)
    named = any(item.startswith("name=") for item in words.overrides)
    if not named:
        raw["name"] = _usual_name(words, found)
    file, raw["name"], text = place(str(words), raw, made, named, replace)
    recipe = recipes.validate(raw, origin=str(words), kind=words.command)
    assert isinstance(recipe, FinetuneRecipe | EvaluateRecipe)
    return Made(recipe, file, text, tuple(made), (f"task {task['name']} ({why})", *told))


# --- the two commands ------------------------------------------------------------------------------------------------


def _finetune(raw: dict[str, Any]) -> tuple[Facts, tuple[str, ...], list[Choice]]:
    from manta.models import load
    from manta.tasks import examples
    from manta.tasks.encoding import rows
    from manta.train.objective import objective_of

    recipe = recipes.validate(_completed(raw), kind="finetune")
    assert isinstance(recipe, FinetuneRecipe)
    inputs = {"data.examples": _file("data.examples", recipe.data.examples, recipe.output)}
    if recipe.data.validation is not None:
        inputs["data.validation"] = _file("data.validation", recipe.data.validation, recipe.output)
    every = examples.load(inputs, recipe.data, recipe.task)
    divided = recipe.data.validation is None and inputs["data.examples"].kind == "file"
    fraction = choices.fraction(len(every.train) + len(every.validation)) if divided else None
    if divided and "validation_fraction" not in raw["data"]:
        data = recipe.data.model_copy(update={"validation_fraction": fraction})
        recipe = recipe.model_copy(update={"data": data})
    chosen = rows.chosen(recipe, examples.check(inputs, recipe.data, recipe.task))
    rows.collect(recipe, chosen)
    model = facts.model(recipe.model.source)
    objective_of(recipe, load.model_config(model.folder.url))
    lengths = facts.lengths(recipe.task, chosen["train"], model)
    counts = len(chosen["train"]), len(chosen["validation"])
    found = Facts(raw["task"], *counts, fraction, lengths, model, facts.machine())
    told = f"{counts[0]:,} training and {counts[1]:,} validation examples"
    return found, (told, *every.notes), choices.finetuning(found, raw)


def _evaluate(raw: dict[str, Any]) -> tuple[Facts, tuple[str, ...], list[Choice]]:
    from manta.tasks import examples

    recipe = recipes.validate(raw, kind="evaluate")
    assert isinstance(recipe, EvaluateRecipe)
    data, task = recipe.data, recipe.evaluate.task
    assert task is not None
    assert data.examples is not None
    inputs = {"data.examples": _file("data.examples", data.examples, recipe.output)}
    model = facts.model(recipe.model.source)
    seen = model.learnt_from == inputs["data.examples"].content
    fraction = None
    if inputs["data.examples"].kind == "file":
        fraction = model.kept_back if seen and model.kept_back else 1.0
    if fraction is not None and "validation_fraction" not in raw["data"]:
        data = data.model_copy(update={"validation_fraction": fraction})
    scored = examples.read(inputs, "validation", data, task)
    told = [f"{len(scored):,} examples"]
    if seen and data.validation_fraction == 1.0:
        told.append("the model was trained on these very examples: the score says what it remembers")
    lengths = facts.lengths(task, scored, model)
    found = Facts(raw["evaluate"]["task"], 0, len(scored), fraction, lengths, model, facts.machine())
    there = importlib.util.find_spec("vllm") is not None
    return found, tuple(told), choices.evaluation(found, raw, there)


def _task(words: Words, own: Mapping[str, Any], renamed: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """The task's section, and how it is known. `own` is what the overrides say of it."""
    word = words.task if words.task is not None else own.get("name")
    if word is not None:
        task = names.task_of(str(word))
        return task, "as asked" if task["name"] == word else f"which {word} means"
    place = Folder(_file("--data", ref(words.data), "runs").path)
    file = place if place.is_file() else place / "examples/train.parquet"
    task, told = columns.task_of(file, renamed)
    return task, f"by the columns {told}"


def _file(role: str, ref: str, output: str) -> Resolved:
    return artifact.resolve(role, ref, FILE, output)


def _completed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The raw recipe with what a schema asks for and nobody has decided yet."""
    filled: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    for key, value in UNDECIDED.items():
        needed = {"batch": ("samples", "tokens"), "stop": ("epochs", "steps", "tokens")}[key]
        there = filled.get(key, {})
        if isinstance(there, Mapping) and not any(there.get(name) is not None for name in needed):
            filled[key] = {**there, **value}
    return filled


# --- names and places ------------------------------------------------------------------------------------------------


def ref(typed: str) -> str:
    """What was typed as a recipe means it: a bare word is a file or folder here, no sibling of runs."""
    return typed if "/" in typed or ":" in typed else f"./{typed}"


def _usual_name(words: Words, found: Facts) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(words.data).stem).strip("-") or "run"
    parts = [stem, found.task["name"]]
    if words.command == "evaluate":
        model = re.sub(r"[^A-Za-z0-9]+", "-", Path(words.model).name.removeprefix("package:")).strip("-")
        parts += [f"by-{model}" if model else "scores"]
    return "-".join(parts)


def place(words: str, raw: dict[str, Any], made: Sequence[Choice], named: bool, replace: bool) -> tuple[Path, str, str]:
    """(file, name, content) of the recipe: the first name that is free, or already holds this very recipe."""
    name, output = str(raw["name"]), str(raw.get("output", "runs"))
    number = 1
    while True:
        tried = name if number == 1 else f"{name}-{number}"
        file, text = Path(f"{tried}.yaml"), _text(words, {**raw, "name": tried}, made)
        if file.exists():
            there = file.read_text(encoding="utf-8")
            if there == text or (replace and there.startswith(WRITTEN)):
                return file, tried, text
        elif named or replace or not Folder(f"{output}/{tried}").exists(artifact.MANIFEST):
            return file, tried, text
        if named:
            raise InputError(
                f"name = {name!r}: ./{file} is another recipe: choose another name, or run `manta {raw['kind']} ./{file}`"
            )
        number += 1


def _text(words: str, raw: Mapping[str, Any], made: Sequence[Choice]) -> str:
    fields = KINDS[raw["kind"]].model_fields
    ordered = {key: raw[key] for key in sorted(raw, key=list(fields).index)}
    reasons = {choice.path: choice.reason for choice in made}
    head = f"{WRITTEN}{words.removeprefix('manta ')}`; again: manta {raw['kind']} ./{raw['name']}.yaml\n"
    return head + yaml_text.dump(ordered, reasons)


def _at(raw: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    node: Any = raw
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _put(raw: dict[str, Any], path: Sequence[str], value: Any) -> None:
    recipes.set_path(raw, ".".join(path), value)
