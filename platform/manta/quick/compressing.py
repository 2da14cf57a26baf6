"""From `--model`, `--for` and `--target` to a sweep that tries the schemes for that hardware and keeps the best that fits."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from manta import artifact
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.data import shards as stored
from manta.errors import InputError
from manta.quick import facts, form
from manta.quick.choices import Choice, Choices
from manta.quick.facts import Machine, Model
from manta.schema import TuneRecipe
from manta.sections.base import Input
from manta.sections.compress import Quantise
from manta.sections.speed import Speed

# What is tried for each hardware, one line each: settings of compress.quantise. The first of each is the usual one, and looks at rows.
CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "cpu": (
        {"scheme": "w8a8", "algorithm": "gptq", "smoothquant": "search"},
        {"scheme": "w8a8", "algorithm": "rtn"},
        {"scheme": "w4a16", "algorithm": "gptq"},
        {"scheme": "w4a16", "algorithm": "awq"},
    ),
    "h100": (
        {"scheme": "w8a8", "algorithm": "gptq", "smoothquant": "search"},
        {"scheme": "fp8", "algorithm": "rtn"},
        {"scheme": "w4a16", "algorithm": "gptq"},
        {"scheme": "w4a16", "algorithm": "awq"},
    ),
}
MEASURED_HERE = ("cpu",)  # hardware whose speed any machine can measure


class Goal(NamedTuple):
    """A word of --target: the figure that it limits, and how; `mode` is the better direction where it is not limited."""

    figure: str
    mode: str
    limit: str


TARGETS = {
    "perplexity": Goal("evaluate.perplexity_ratio", "min", "at_most"),
    "speed": Goal("evaluate.speedup_1", "max", "at_least"),
    "throughput": Goal("evaluate.speedup_16", "max", "at_least"),
    "size": Goal("evaluate.size_ratio", "min", "at_most"),
}
TIMED = ("speed", "throughput")
SHARDS = Input(("prepare",))
SAMPLES, SEQ_LEN, ROWS = 64, 256, 64


@dataclass(frozen=True)
class Words:
    """What stands on the command line. Paths are as typed."""

    model: str
    hardware: str
    targets: Sequence[str]
    data: str | None = None
    overrides: Sequence[str] = ()

    def __str__(self) -> str:
        words = ["manta", "compress", "--model", self.model, "--for", self.hardware]
        for target in self.targets:
            words += ["--target", target]
        if self.data is not None:
            words += ["--data", self.data]
        return shlex.join([*words, *self.overrides])


def make(words: Words, replace: bool = False) -> form.Made:
    """The sweep of some words. Nothing is written or started.

    Raises InputError for a model that cannot be compressed like this, targets that mean nothing, or rows that are missing;
    RecipeError for overrides that do not fit. `replace` is as in `form.make`.
    """
    if words.hardware not in CANDIDATES:
        raise InputError(f"--for {words.hardware}: choose one of {', '.join(CANDIDATES)}")
    limits = wanted(words.targets)
    model, machine = facts.model(words.model), facts.machine()
    if model.kind != "decoder":
        raise InputError(
            f"--model {words.model}: it is an {model.kind}, and the schemes that are tried are those of decoders in vLLM: write a "
            "recipe with `compress: {dynamic: {}}`, see docs/compress.md"
        )
    rows = _rows(words)
    raw = recipes.override({"kind": "tune", "name": "undecided"}, words.overrides)
    recipes.set_path(raw, "trial.kind", "compress")
    recipes.set_path(raw, "trial.model.source", form.ref(words.model))
    recipes.set_path(raw, "after.evaluate.base", form.ref(words.model))
    made = decided(raw, words.hardware, limits, model, machine, rows)
    for choice in made:
        recipes.set_path(raw, choice.path, choice.value)
    named = any(item.startswith("name=") for item in words.overrides)
    if not named:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(words.model).name.removeprefix("package:")).strip("-")
        raw["name"] = f"{stem or 'model'}-for-{words.hardware}"
    file, raw["name"], text = form.place(str(words), raw, made, named, replace)
    recipe = recipes.validate(raw, origin=str(words), kind="tune")
    assert isinstance(recipe, TuneRecipe)
    tried = len(CANDIDATES[words.hardware])
    told = (
        f"{tried} schemes for {words.hardware}, each against {words.model}; calibrated and judged on rows of {rows.path}",
        *([] if _timed(words.hardware) else [f"speed on {words.hardware} is not measured: this machine is none"]),
    )
    return form.Made(recipe, file, text, tuple(made), told)


def wanted(targets: Sequence[str]) -> dict[str, float]:
    """ "size 0.5" and the like -> word of TARGETS -> number. Raises InputError for anything else, and without any."""
    found: dict[str, float] = {}
    example = "--target 'size 0.5'"
    if not targets:
        raise InputError(f"--target is missing: say what the model must reach, such as {example}")
    for target in targets:
        parts = target.replace("=", " ").split()
        if len(parts) != 2 or parts[0] not in TARGETS:
            raise InputError(f"--target {target!r}: give one of {', '.join(TARGETS)} and a number, such as {example}")
        if parts[0] in found:
            raise InputError(f"--target {target!r}: {parts[0]} stands there twice: keep one")
        try:
            found[parts[0]] = float(parts[1])
        except ValueError:
            raise InputError(f"--target {target!r}: {parts[1]!r} is no number, such as {example}") from None
        if not found[parts[0]] > 0:
            raise InputError(f"--target {target!r}: ratios to the base are above 0, such as {example}")
    return found


def decided(
    raw: dict[str, Any], hardware: str, limits: dict[str, float], model: Model, machine: Machine, rows: Resolved
) -> list[Choice]:
    """The settings of the sweep with their reasons; what the user wrote in `raw` is never decided again."""
    take = Choices(raw)
    index = stored.load_index(rows.path)
    timed = _timed(hardware)
    if missing := [word for word in limits if word in TIMED and not timed]:
        raise InputError(
            f"--target {missing[0]}: the speed of --for {hardware} cannot be measured here: leave it out, and measure on such a machine "
            "with evaluate.speed"
        )
    first = CANDIDATES[hardware][0]
    take.take("trial.compress.quantise", first, "where the search starts")
    take.take("trial.compress.calibration.shards", rows.path, "the text that the model knows")
    samples = min(SAMPLES, index.rows("train"))
    take.take("trial.compress.calibration.samples", samples, f"of {index.rows('train'):,} training rows")
    longest = min(SEQ_LEN, index.seq_len, model.positions or SEQ_LEN)
    take.take("trial.compress.calibration.seq_len", longest, f"rows have {index.seq_len} tokens")
    take.take("trial.resources.cpus", machine.cores, "all cores of this machine")
    take.take("after.evaluate.data.shards", rows.path, "its validation rows, which no scheme has seen")
    take.take("after.evaluate.evaluate.engine", "vllm" if timed else "transformers", _engine(hardware, timed))
    take.take("after.evaluate.evaluate.dtype", "bfloat16", "what int4 and fp8 are computed in")
    judged = min(ROWS, index.rows("validation"))
    take.take("after.evaluate.evaluate.perplexity_rows", judged, f"of {index.rows('validation'):,}")
    if timed:
        _speed(take, model)
    take.take("after.evaluate.resources.cpus", machine.cores, "all cores of this machine")
    _search(take, hardware, limits, timed)
    take.take("resources.concurrent_trials", 1, "what is timed runs alone" if timed else "one after the other")
    return take.made


def _speed(take: Choices, model: Model) -> None:
    """What fits into the model's positions of the usual request."""
    usual = Speed()
    room = model.positions or usual.prompt_tokens + usual.new_tokens
    new = min(usual.new_tokens, room // 3)
    prompt = min(usual.prompt_tokens, room - new)
    at = "after.evaluate.evaluate.speed"
    take.take(f"{at}.batches", usual.batches, "alone, and a busy endpoint")
    take.take(
        f"{at}.prompt_tokens", prompt, f"the model takes {room} tokens" if prompt < usual.prompt_tokens else "usual"
    )
    take.take(f"{at}.new_tokens", new, f"the model takes {room} tokens" if new < usual.new_tokens else "usual")


def _search(take: Choices, hardware: str, limits: dict[str, float], timed: bool) -> None:
    candidates = CANDIDATES[hardware]
    space: dict[str, Any] = {"compress.quantise": {"choice": [dict(one) for one in candidates]}}
    if blind := [dict(one) for one in candidates if not Quantise.model_validate(one).reads_rows]:
        space["compress.calibration"] = {"choice": [None], "when": {"compress.quantise": blind}}
    take.take("search.method", "grid", "each of them is tried")
    take.take("search.trials", len(candidates), f"schemes for {hardware}")
    take.take("search.space", space, f"what is worth trying on {hardware}")
    open_ones = {word: goal for word, goal in TARGETS.items() if word not in limits and (timed or word not in TIMED)}
    # Of a model that must only be small, how well it still works comes first.
    ranked = open_ones or {"perplexity": TARGETS["perplexity"]}
    objectives = {goal.figure: goal.mode for goal in ranked.values()}
    take.take("search.objectives", objectives, "what the target leaves open; the first one decides")
    constraints = {TARGETS[word].figure: {TARGETS[word].limit: value} for word, value in limits.items()}
    take.take("search.constraints", constraints, "the target")


def _engine(hardware: str, timed: bool) -> str:
    if timed:
        return "the engine that serves"
    return "vllm is not installed" if hardware in MEASURED_HERE else f"files for {hardware} are verified, not timed"


def _timed(hardware: str) -> bool:
    return hardware in MEASURED_HERE and importlib.util.find_spec("vllm") is not None


def _rows(words: Words) -> Resolved:
    """The prepared rows: those of --data, or those that the model's run, or one that it came from, was trained on."""
    if words.data is not None:
        return artifact.resolve("--data", form.ref(words.data), SHARDS, "runs")
    remedy = "add --data with what `manta prepare` made of text like that which the model will see"
    run = words.model if not words.model.startswith("package:") else None
    if run is None or not artifact.Folder(run).exists(artifact.MANIFEST):
        raise InputError(f"--model {words.model} is no run of Manta, so what it was trained on is not known: {remedy}")
    tree = artifact.lineage(artifact.open_artifact(run))
    place = _prepared(tree)
    if place is None:
        raise InputError(f"--model {words.model}: its lineage holds no prepared rows that are still there: {remedy}")
    return artifact.resolve("--model", place, SHARDS, "runs")


def _prepared(tree: dict[str, Any]) -> str | None:
    """The nearest prepared rows behind an artifact: its own inputs first, then those of what it was made from."""
    inputs = [one for one in tree.get("inputs", {}).values() if isinstance(one, dict)]
    for one in inputs:
        if one["kind"] == "prepare" and artifact.Folder(one["path"]).exists(stored.INDEX):
            return str(one["path"])
    return next((place for one in inputs if (place := _prepared(one)) is not None), None)
