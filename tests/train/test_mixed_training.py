"""One model learns conversations, choices and plain text in turn: through the real chain, and step by step beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import artifact, mix, stage
from manta import recipe as recipes
from manta.artifact import Draft
from manta.objectives import loss_of, mean, scored_of
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.train import drill, optimizers, run, streams
from manta.train.job import Job, model_of
from manta.train.metrics import read
from manta.train.schedule import learning_rate
from tests.tasks import labelled
from tests.train.counting import SEQ, write_shards

pytestmark = pytest.mark.integration
STEPS = 24
NAMES = ("chat", "text", "preference")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of letters, 40 conversations, 30 choices, and prepared rows in the Llama's tokens."""
    folder = tmp_path_factory.mktemp("mix")
    labelled.llama(folder / "llama")
    write_shards(folder)
    words = labelled.GOOD + labelled.BAD
    chats = [{"input": f"{word} {number}?", "target": f"so {word}"} for number in range(4) for word in words]
    pairs = [
        {"input": f"{word} {number}?", "chosen": f"yes {word}", "rejected": f"no {word}"}
        for number in range(3)
        for word in words
    ]
    for name, some in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in some))
    return folder


def recipe_of(place: Path, **sections: Any) -> FinetuneRecipe:
    """Half the steps are of conversations, three tenths of text, two tenths of choices."""
    made = recipes.validate({
        "kind": "finetune", "name": "mixed", "output": str(place), "model": {"source": f"{place}/llama"},
        "data": {"examples": f"{place}/chats.jsonl", "validation_fraction": 0.25}, "task": {"name": "chat", "max_tokens": 48},
        "mix": [
            {"weight": 0.3, "data": {"shards": "shards"}, "task": {"name": "text"}},
            {"weight": 0.2, "data": {"examples": f"{place}/pairs.jsonl", "validation_fraction": 0.25},
             "task": {"name": "preference", "max_tokens": 48}},
        ],
        "optimizer": {"lr": 5e-3, "precision": "fp32"}, "batch": {"samples": 8}, "stop": {"steps": STEPS},
        "evaluate": {"every_steps": 12, "max_rows": 16}, "checkpoint": {"every_steps": 5, "keep": 2},
        "early_stop": {"figure": "loss", "patience": 9, "keep_best": False}, "resources": {"workers": 2, "micro_batch": 2}, **sections,
    })  # fmt: skip
    assert isinstance(made, FinetuneRecipe)
    return made


@pytest.fixture(scope="module")
def tuned(place: Path, ray_session: None) -> artifact.Artifact:
    """The run of two workers that nothing disturbs."""
    return stage.run(recipe_of(place), Progress(quiet=True)).artifact


def job_of(recipe: FinetuneRecipe, rows: Path) -> Job:
    """What one worker would be told, with the rows that the run has made."""
    draft = Draft(Folder(rows), {}, artifact.resolve_inputs(recipe), resumed=False)
    job: Job = run.make_job(recipe, draft, None, Progress(quiet=True))
    return job


def test_the_chain_trains_each_stream_by_its_share(tuned: artifact.Artifact, place: Path) -> None:
    """As one process without Ray takes the same steps; a killed worker changes no bit."""
    lines = [line for line in read(tuned.folder) if line["kind"] == "train"]
    order = mix.Order((5, 3, 2))
    assert [line["stream"] for line in lines] == [NAMES[order.stream(step)] for step in range(STEPS)]
    assert all(line["loss"] == line[f"loss_{line['stream']}"] for line in lines)
    first, last = ({name: next(line["loss"] for line in some if line["stream"] == name) for name in NAMES} for some in (lines, lines[::-1]))  # fmt: skip
    assert all(last[name] < first[name] for name in NAMES)
    figures = tuned.metrics
    assert figures["final_loss"] == pytest.approx(0.5 * last["chat"] + 0.3 * last["text"] + 0.2 * last["preference"])
    validated = [line for line in read(tuned.folder) if line["kind"] == "validation"]
    assert [line["step"] for line in validated] == [12, 24] and "perplexity" not in validated[0]
    losses = [figures[f"validation_loss_{name}"] for name in NAMES]
    assert figures["validation_loss"] == figures["best_loss"] == pytest.approx(np.dot(losses, (0.5, 0.3, 0.2)))
    assert figures["validation_perplexity_text"] == pytest.approx(np.exp(losses[1]))
    assert 0 <= figures["validation_score_preference"] <= 100 and figures["steps"] == STEPS
    assert {*tuned.manifest["inputs"]} == {"data.examples", "model.source", "mix.0.data.shards", "mix.1.data.examples"}
    assert (place / "mixed/model/generation_config.json").exists(), "exported as a run without a mix is"
    check_alone(place, lines)
    again = drill.drill(tuned.folder.url, kills=1, progress=Progress(quiet=True))
    assert again["identical"] and len(again["kills"]) == 1 and again["compared"] == STEPS + len(validated)


def check_alone(place: Path, lines: list[dict[str, Any]]) -> None:
    """One process, no DeepSpeed, all rows of a step in one pass: the same curve within rounding."""
    import torch

    recipe = recipe_of(place, resources={"micro_batch": 8})
    job = job_of(recipe, place / "mixed")
    feeds = [each.feed for each in job.streams]
    parts = streams.OrderedStreams(feeds, [SEQ] * len(feeds), job.order, lambda: 0).of(0, STEPS, 0, 1)
    torch.set_num_threads(1)
    model = model_of(job, lambda _: None).train()
    moves = optimizers.make(optimizers.groups(model, recipe.optimizer), recipe.optimizer)
    for step, number, batch in streams.batches(parts):
        objective = job.streams[number].objective
        optimizers.set_rates(moves.param_groups, learning_rate(step, STEPS, recipe.optimizer.lr, recipe.schedule))
        sums, counted = loss_of(objective)(model, {name: torch.tensor(values) for name, values in batch.items()})
        assert float(counted) == scored_of(objective)(batch)
        loss = mean(sums, [float(counted)])
        assert float(loss.detach()) == pytest.approx(lines[step]["loss"], rel=2e-4), step
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.grad_clip)
        moves.step()
        moves.zero_grad()
    assert step == STEPS - 1
