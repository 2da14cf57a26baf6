"""Heads trained in this process as the loop does it, and asked as `manta evaluate` does; for tests of tasks that label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.data.stream import read_steps
from manta.evaluate import labelling
from manta.objectives import TABLE, loss_of, scored_of
from manta.progress import Progress
from manta.schema import EvaluateRecipe, FinetuneRecipe
from manta.storage import Folder
from manta.train import run, validation
from manta.train.engine import Engine
from manta.train.export import export
from manta.train.job import Job, model_of

STEPS = 60


def inputs_of(
    examples: list[dict[str, Any]], model: Path, folder: Path, validation: list[dict[str, Any]] | None = None
) -> dict[str, Resolved]:
    """The examples to train on and those to validate with, without more the same again."""
    found = {"model.source": Resolved("model.source", "m", "directory", str(model), "", "")}
    for name, some in (("data.examples", examples), ("data.validation", validation or examples)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(example) + "\n" for example in some))
        found[name] = Resolved(name, str(file), "file", str(file), "", "")
    return found


def job_of(task: dict[str, Any], inputs: dict[str, Resolved], folder: Path, **given: Any) -> Job:
    """What the workers of a run would be told."""
    raw = {
        "kind": "finetune", "name": "t", "output": str(folder), "data": {"examples": "./x", "validation": "./x"},
        "model": {"source": "./m"}, "task": task, "optimizer": {"lr": 5e-3, "precision": "fp32"},
        "schedule": {"name": "constant"}, "batch": {"samples": 10}, "stop": {"steps": STEPS},
        "resources": {"micro_batch": 5}, **given,
    }  # fmt: skip
    recipe = recipes.validate(raw)
    assert isinstance(recipe, FinetuneRecipe)
    draft = Draft(Folder(folder / "run"), {}, inputs, resumed=False)
    job: Job = run.make_job(recipe, draft, None, Progress(quiet=True))
    return job


class Trained(NamedTuple):
    """What a run came to: before and after are whole state dicts."""

    job: Job
    figures: dict[str, Any]
    losses: list[float]
    before: dict[str, Any]
    after: dict[str, Any]
    model: Path  # exported


def train(
    task: dict[str, Any],
    examples: list[dict[str, Any]],
    source: Path,
    folder: Path,
    unseen: list[dict[str, Any]] | None = None,
    **given: Any,
) -> Trained:
    """As the loop does it, in this process: rows, model, steps, validation (of `unseen` examples, if any), export."""
    job = job_of(task, inputs_of(examples, source, folder, unseen), folder, **given)
    recipe = job.recipe
    model = model_of(job, lambda _: None)
    engine = Engine(model, loss_of(job.objective), recipe.optimizer, recipe.resources, job.accumulation)
    before = {name: tensor.clone() for name, tensor in (engine.weights() or {}).items()}
    losses = []
    for step in range(job.feed.steps):
        found = read_steps(job.feed, np.array([step]), 0, 1)
        batch = {name: found[name][0] for name in job.feed.columns}
        scored = np.atleast_1d(scored_of(job.objective)(batch)).tolist()
        losses.append(engine.step(batch, scored, recipe.optimizer.lr)[0])
    held_out, judge = validation.rows_of(job, 0), validation.judge_of(job, 0)
    figures = validation.measure(engine, held_out, TABLE[job.objective.name].parts, judge)
    export(job, engine, model, Folder(folder / "out"))
    return Trained(job, figures, losses, before, engine.weights() or {}, folder / "out/model")


def asked(task: dict[str, Any], examples: list[dict[str, Any]], model: Path, folder: Path) -> dict[str, Any]:
    """What `manta evaluate` measures of an exported model."""
    raw = {
        "kind": "evaluate", "name": "e", "model": {"source": "./m"},
        "data": {"examples": "./x", "validation_fraction": 1.0},
        "evaluate": {"engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": task},
    }  # fmt: skip
    recipe = recipes.validate(raw)
    assert isinstance(recipe, EvaluateRecipe)
    inputs = {"data.examples": inputs_of(examples, model, folder)["data.examples"]}
    outcome: dict[str, Any] = labelling.measure(recipe, model, inputs, lambda _: None)
    assert len(outcome["predictions"]) == len(outcome["confidence"]) == len(examples)
    return outcome
