"""A sweep whose examples are two files hands both to its trials."""

from pathlib import Path

from manta.artifact import Resolved
from manta.tune import sweep
from tests.tune.test_space import tune


def test_trials_validate_with_the_sweeps_second_file(tmp_path: Path) -> None:
    given = {"data.examples": "a.jsonl", "data.validation": "b.jsonl", "model.source": "base"}
    recipe = tune({"optimizer.lr": {"choice": [0.1, 0.2]}}, data={"examples": "a.jsonl", "validation": "b.jsonl"})
    inputs = {role: Resolved(role, ref, "file", f"{tmp_path}/{ref}", "", "") for role, ref in given.items()}
    for trial in sweep._plan(recipe, inputs, "trials"):
        data = trial.recipe.data
        assert (data.examples, data.validation) == (f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl")
    alone = {role: found for role, found in inputs.items() if role != "data.validation"}
    assert sweep._plan(tune({"optimizer.lr": {"choice": [0.1, 0.2]}}), alone, "t")[0].recipe.data.validation is None
