"""A real population: two generations of three members, whose second generation starts from the first one's models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manta import artifact as artifacts
from manta import pipeline, stage
from manta import recipe as recipes
from manta.progress import Progress
from manta.schema import TuneRecipe
from tests.tune.test_sweep import trial

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]


def test_generations_start_from_their_parents_models(
    ray_session: None, output: str, silent: Progress, tiny_model: Path, pairs: Path
) -> None:
    recipe = recipes.validate(
        {
            "kind": "tune",
            "name": "run",
            "output": output,
            "trial": {"kind": "finetune", **trial(tiny_model, pairs, stop={"steps": 4})},
            "search": {
                "method": "population",
                "trials": 3,
                "population": {"generations": 2},
                "space": {"optimizer.lr": {"loguniform": [1e-5, 1e-2]}},
            },
            "resources": {"concurrent_trials": 2},
        }
    )
    assert isinstance(recipe, TuneRecipe)
    made = stage.run(recipe, silent).artifact
    lines = [json.loads(line) for line in made.folder.read_text("trials.jsonl").splitlines()]
    assert [line["trial"] for line in lines] == ["000-g0", "001-g0", "002-g0", "000-g1", "001-g1", "002-g1"]
    before = {line["trial"]: line["figures"]["validation_loss"] for line in lines[:3]}
    best, worst = min(before, key=lambda name: before[name]), max(before, key=lambda name: before[name])
    parents = {line["trial"]: line["parent"] for line in lines[3:]}
    assert parents[worst.replace("g0", "g1")] == best, "the worst copies the best"
    for name, parent in parents.items():
        run, origin = (artifacts.open_artifact(one, f"{made.folder.url}/trials") for one in (name, parent))
        given = run.manifest["inputs"]["model.source"]
        assert (given["kind"], given["fingerprint"]) == ("finetune", origin.fingerprint)
        assert run.metrics["steps"] == 2
    winner = made.metrics["best_trial"]
    assert winner.endswith("g1"), "two more steps at such rates help"
    assert made.metrics["objectives"]["validation_loss"] < min(before.values())

    # The winner again, from its recipes alone.
    _, chain = pipeline.load(made.folder.local_path / "best.yaml")  # type: ignore[operator]
    again = pipeline.run(chain, silent)[-1].artifact
    trained = artifacts.open_artifact(winner, f"{made.folder.url}/trials")
    assert again.fingerprint == trained.fingerprint
    assert again.folder.file_sha256("model/model.safetensors") == trained.folder.file_sha256("model/model.safetensors")
