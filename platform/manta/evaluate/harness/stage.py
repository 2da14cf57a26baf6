"""The harness's part in the evaluate stage: what it refuses beforehand, what it adds to the report."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate.harness import files
from manta.evaluate.harness.figures import REPORT, ROLE, SAMPLES, interval, name_of
from manta.evaluate.harness.measure import ENVIRONMENT, FILE, measure, rows_of
from manta.schema import EvaluateRecipe
from manta.storage import Folder

__all__ = ["ENVIRONMENT", "FILE", "add", "check", "found", "measure", "store"]


def check(recipe: EvaluateRecipe, inputs: Mapping[str, Resolved]) -> None:
    """Raise InputError for tasks that cannot be asked: wrong files, models that write no text, lm_eval not installed."""
    settings = recipe.evaluate.harness
    if settings is None:
        return
    if recipe.resources.workers > 1:
        raise InputError(
            f"resources.workers = {recipe.resources.workers}: one process asks evaluate.harness: set resources.workers=1, and give "
            "what several workers are for a recipe of its own"
        )
    with Folder(inputs[ROLE].path).local() as folder:
        files.check(folder, settings.tasks, settings.allow_python)
    _check_model(recipe, inputs["model.source"])
    if not installed():
        raise InputError(
            "evaluate.harness needs the package lm_eval, which is not installed: make env EXTRAS=harness (or, in an environment "
            "of your own, pip install --no-deps -r requirements/harness.lock)"
        )


def installed() -> bool:
    """Whether the package that asks the tasks is there; it is imported later, by the process that measures."""
    return importlib.util.find_spec("lm_eval") is not None


def _check_model(recipe: EvaluateRecipe, model: Resolved) -> None:
    from manta.models import classes
    from manta.models.load import model_config, model_url

    if model.kind == "package":  # unpacked later: a decoder
        return
    url = model_url(model)
    config = model_config(url)
    name = (config.get("architectures") or [""])[0]
    if classes.kind(config) != "decoder" or not name.endswith(("ForCausalLM", "LMHeadModel")):
        raise InputError(
            f"model.source = {model.ref!r} is a {config['model_type']} model of the class {name}, and evaluate.harness asks for the "
            "likelihood of text: name a model that predicts the next token"
        )
    rows_of(recipe, url)


def found(folder: Folder) -> dict[str, Any]:
    """What was measured: see `manta.evaluate.harness.measure.ask`."""
    report: dict[str, Any] = json.loads(folder.read_text(FILE))
    return report


def add(report: dict[str, Any], asked: Mapping[str, Any], seed: int) -> None:
    """Put the tasks' figures and their intervals beside an evaluation's, as TASK/METRIC in lm_eval's own units."""
    for metric in asked["metrics"]:
        values = [
            row["metrics"][metric["metric"]]
            for row in asked["samples"]
            if (row["task"], row["filter"]) == (metric["task"], metric["filter"]) and metric["metric"] in row["metrics"]
        ]
        report["figures"][name_of(metric)] = metric["value"]
        report["intervals"][name_of(metric)] = interval(metric, values, seed)


def store(asked: Mapping[str, Any], folder: Folder) -> None:
    """Write the tasks' figures to harness.json, and to harness_samples.jsonl a line for each question and filter."""
    told = {key: value for key, value in asked.items() if key != "samples"}
    folder.write_text(REPORT, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    folder.write_text(SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked["samples"]))
