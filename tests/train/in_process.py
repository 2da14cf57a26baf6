"""Models taught in this process as the loop does it, under DeepSpeed or in plain PyTorch, and asked as `manta evaluate` does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.data.stream import read_steps
from manta.evaluate import asking, comparing, labelling, measure
from manta.models.load import model_config
from manta.objectives import TABLE, loss_of, mean, scored_of
from manta.progress import Progress
from manta.schema import EvaluateRecipe, FinetuneRecipe
from manta.storage import Folder
from manta.tasks import COMPARING, LABELLING
from manta.tasks.encoding import seq2seq
from manta.train import optimizers, preparing, run, teacher, validation
from manta.train.engine import Engine
from manta.train.export import export
from manta.train.job import Job, model_of
from manta.train.schedule import learning_rate

Examples = list[dict[str, Any]]
STEPS = 60


class Plain:
    """What of `Engine` a training in this process needs, without DeepSpeed: one worker, all parameters in fp32."""

    def __init__(self, model: Any, objective: Any, optimizer: Any, resources: Any, accumulation: int):
        self.engine, self.objective, self.optimizer, self.rows = self, objective, optimizer, resources.micro_batch
        self.module = model
        self.moves = optimizers.make(optimizers.groups(model, optimizer), optimizer)

    def step(self, batch: Mapping[str, Any], scored: list[float], lr: float) -> tuple[float, float]:
        self.module.train()
        optimizers.set_rates(self.moves.param_groups, lr)
        total = 0.0
        for micro in self._micro_batches(batch):
            loss = mean(self.objective(self.module, micro)[0], scored)
            loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.optimizer.grad_clip)
        self.moves.step()
        self.moves.zero_grad()
        return total, float(norm)

    def evaluate(self, batch: Mapping[str, Any], objective: Any = None) -> tuple[list[float], list[float]]:
        self.module.eval()
        with torch.no_grad():
            found = [(objective or self.objective)(self.module, micro) for micro in self._micro_batches(batch)]
        sums, counts = (torch.stack([pair[side].double().reshape(-1) for pair in found]).sum(0) for side in (0, 1))
        return sums.tolist(), counts.tolist()

    def total(self, values: list[float]) -> list[float]:
        return values

    def weights(self) -> dict[str, Any]:
        return {name: tensor.detach().contiguous() for name, tensor in self.module.state_dict().items()}

    def _micro_batches(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for first in range(0, len(next(iter(batch.values()))), self.rows):
            yield {name: torch.tensor(values[first : first + self.rows]) for name, values in batch.items()}


def inputs_of(examples: Examples, model: Path, folder: Path, unseen: Examples | None = None) -> dict[str, Resolved]:
    """The examples to train on and those to validate with, without more the same again."""
    found = {"model.source": Resolved("model.source", "m", "directory", str(model), "", "")}
    for name, some in (("data.examples", examples), ("data.validation", unseen or examples)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(example) + "\n" for example in some))
        found[name] = Resolved(name, str(file), "file", str(file), "", "")
    return found


def recipe_of(task: dict[str, Any], folder: Path, **given: Any) -> FinetuneRecipe:
    """By default ten rows a step, in two parts, at a constant rate."""
    raw = {
        "kind": "finetune", "name": "t", "output": str(folder), "data": {"examples": "./x", "validation": "./x"},
        "model": {"source": "./m"}, "task": task, "optimizer": {"lr": 5e-3, "precision": "fp32"},
        "schedule": {"name": "constant", "warmup_fraction": 0.0}, "batch": {"samples": 10}, "stop": {"steps": STEPS},
        "resources": {"micro_batch": 5}, **given,
    }  # fmt: skip
    recipe = recipes.validate(raw)
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


def job_of(task: dict[str, Any], inputs: dict[str, Resolved], folder: Path, **given: Any) -> Job:
    """What the workers of a run would be told."""
    recipe = recipe_of(task, folder, **given)
    draft = Draft(Folder(folder / "run"), {}, inputs, resumed=False)
    if task["name"] == "preference":
        preparing.ask_before(recipe, draft, Progress(quiet=True))
    job: Job = run.make_job(recipe, draft, None, Progress(quiet=True))
    return job


class Trained(NamedTuple):
    """What a run came to: before and after are whole state dicts."""

    job: Job
    first: dict[str, Any]  # figures before the first step
    figures: dict[str, Any]
    losses: list[float]
    before: dict[str, Any]
    after: dict[str, Any]
    model: Path  # exported

    @property
    def moved(self) -> set[str]:
        """Names of the weights that are others now."""
        return {name for name, tensor in self.after.items() if not torch.equal(self.before[name], tensor)}


def train(
    task: dict[str, Any],
    examples: Examples,
    source: Path,
    folder: Path,
    unseen: Examples | None = None,
    engine: Any = Engine,
    **given: Any,
) -> Trained:
    """As the loop does it, in this process: rows, model, steps, validation (of `unseen` examples, if any), export."""
    job = job_of(task, inputs_of(examples, source, folder, unseen), folder, **given)
    recipe, model = job.recipe, model_of(job, lambda _: None)
    made = engine(
        model, loss_of(job.objective, teacher.at_hand(job)), recipe.optimizer, recipe.resources, job.accumulation
    )
    before = {name: tensor.clone() for name, tensor in (made.weights() or {}).items()}
    parts, held_out, judge = TABLE[job.objective.name].parts, validation.rows_of(job, 0), validation.judge_of(job, 0)
    first = validation.measure(made, held_out, parts, judge)
    losses = []
    for step in range(job.feed.steps):
        found = read_steps(job.feed, np.array([step]), 0, 1)
        batch = {name: found[name][0] for name in job.feed.columns}
        scored = np.atleast_1d(scored_of(job.objective)(batch)).tolist()
        rate = learning_rate(step, job.feed.steps, recipe.optimizer.lr, recipe.schedule)
        losses.append(made.step(batch, scored, rate)[0])
    figures = validation.measure(made, held_out, parts, judge)
    export(job, made, model, Folder(folder / "out"))
    return Trained(job, first, figures, losses, before, made.weights() or {}, folder / "out/model")


def evaluation_of(task: dict[str, Any], reference: bool = False, **settings: Any) -> EvaluateRecipe:
    """A recipe that scores all examples of a file, by Transformers; with a `reference` beside the model if one is wanted."""
    raw = {
        "kind": "evaluate", "name": "e", "model": {"source": "./m"} | ({"reference": "./r"} if reference else {}),
        "data": {"examples": "./x", "validation_fraction": 1.0},
        "evaluate": {"engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": task, **settings},
    }  # fmt: skip
    recipe = recipes.validate(raw)
    assert isinstance(recipe, EvaluateRecipe)
    return recipe


def asked(task: dict[str, Any], examples: Examples, model: Path, folder: Path) -> dict[str, Any]:
    """What `manta evaluate` measures of an exported model that labels or answers."""
    recipe, inputs = evaluation_of(task), inputs_of(examples, model, folder)
    source, data = inputs["model.source"], {"data.examples": inputs["data.examples"]}
    outcome: dict[str, Any]
    if task["name"] in LABELLING:
        outcome = labelling.measure(recipe, model, data, lambda _: None)
        assert len(outcome["confidence"]) == len(examples)
    elif seq2seq.reads_apart(model_config(str(model))):
        asking.check(recipe, {"model.source": source})
        outcome = asking.measure(recipe, model, data, lambda _: None, source)
    else:
        outcome = measure._measure(recipe, model, data, lambda _: None, source)
    assert len(outcome["predictions"]) == len(examples)
    return outcome


def compared(task: dict[str, Any], examples: Examples, folder: Path, **models: Path) -> dict[str, list[Any]]:
    """What `manta evaluate` makes of models that compare, by their roles: predictions."""
    assert task["name"] in COMPARING
    recipe = evaluation_of(task, "reference" in models)
    comparing.check(recipe)
    measured = {}
    for role, model in models.items():
        inputs = {"data.examples": inputs_of(examples, model, folder)["data.examples"]}
        measured[role] = comparing.measure(recipe, model, inputs, lambda _: None)
    return {role: outcome["predictions"] for role, outcome in comparing.settled(recipe, measured).items()}


def taught(
    task: dict[str, Any],
    seen: Examples,
    unseen: Examples,
    model: Path,
    folder: Path,
    lr: float,
    steps: int,
    **given: Any,
) -> Trained:
    """In plain PyTorch: 32 rows a step, at a rate that falls to the end; judged by all the `unseen` examples."""
    whole = {
        "optimizer": {"lr": lr, "precision": "fp32"}, "stop": {"steps": steps}, "schedule": {"name": "linear"},
        "batch": {"samples": 32}, "resources": {"micro_batch": 32}, "evaluate": {"max_rows": 2000},
    } | given  # fmt: skip
    return train(task, seen, model, folder, unseen, engine=Plain, **whole)
