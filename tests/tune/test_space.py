"""Search spaces: what they refuse and what they draw."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta import pipeline, stage
from manta import recipe as recipes
from manta.errors import RecipeError
from manta.schema import FinetuneRecipe, TuneRecipe
from manta.sections.train import Search
from manta.tune import space

RAW: dict[str, Any] = {
    "kind": "tune",
    "name": "sweep",
    "data": {"examples": "shards"},
    "model": {"source": "base"},
    "task": {"name": "summarisation"},
    "batch": {"samples": 8},
    "stop": {"steps": 3},
    "search": {"trials": 2, "space": {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}}},
}


def tune(entries: dict[str, Any], trials: int = 2, **changes: Any) -> TuneRecipe:
    raw = copy.deepcopy(RAW) | changes
    raw["search"] = {"trials": trials, "space": entries}
    made = recipes.validate(raw)
    assert isinstance(made, TuneRecipe)
    return made


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"optimizer.lrr": {"choice": [1.0]}},
            "search.space.optimizer.lrr: unknown field; did you mean 'optimizer.lr'",
        ),
        ({"lr": {"choice": [1.0]}}, "search.space.lr: unknown field; did you mean 'optimizer.lr'"),
        ({"adapt.metod": {"choice": ["lora"]}}, "did you mean 'adapt.method'"),
        ({"adapt.method": {"choice": ["lora", "loar"]}}, "adapt.method.choice = 'loar': choose .* did you mean 'lora'"),
        ({"optimizer.lr": {"loguniform": [-1.0, 1.0]}}, "loguniform = .*: needs numbers above 0"),
        ({"optimizer.lr": {"uniform": [1.0, 0.5]}}, "the first number must be below the second"),
        ({"optimizer.lr": {"uniform": [-1.0, 1.0]}}, "optimizer.lr.uniform = -1.0: should be greater than 0"),
        ({"optimizer.lr": {"uniform": [1.0]}}, "needs two numbers"),
        ({"batch.samples": {"randint": [1.5, 4]}}, "needs two whole numbers"),
        ({"batch.samples": {"uniform": [1, 4]}}, "should be a valid integer"),
        ({"batch.samples": {"choice": []}}, "needs a list of values"),
        ({"batch.samples": {"choice": [4, 4]}}, "holds a value twice"),
        ({"optimizer.lr": {"loguniorm": [1e-4, 1e-2]}}, "give exactly one of .* did you mean 'loguniform'"),
        ({"optimizer.lr": {"choice": [1.0], "uniform": [0.1, 1]}}, "give exactly one of"),
        ({"batch.tokens": {"choice": [64, 128]}}, "set exactly one of batch.samples and batch.tokens"),
        ({"resources.workers": {"choice": [1, 2]}}, "cannot be searched: resources never change a result"),
        ({"model.source": {"choice": ["a", "b"]}}, "cannot be searched: trials of other models"),
        ({"name": {"choice": ["a", "b"]}}, "cannot be searched"),
        ({"search.trials": {"choice": [1, 2]}}, "unknown field"),
    ],
)
def test_bad_spaces_are_explained(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage.refuse_problems(tune(entries))


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(RecipeError) as refusal:
        stage.refuse_problems(tune({"optimizer.lrr": {"choice": [1.0]}, "adapt.method": {"choice": ["none"]}}))
    assert len(refusal.value.problems) == 2


def test_a_pipeline_tells_before_its_first_stage() -> None:
    wrong = ["tune.search.metric=accuracy", "tune.search.trials=9999", "pretrain.stop.steps=-1"]
    with pytest.raises(RecipeError) as refusal:
        pipeline.load("jobs/recipes/quickstart/pipeline.yaml", wrong)
    assert {problem.path for problem in refusal.value.problems} >= {"tune: search.metric", "pretrain: stop.steps"}


def test_more_trials_than_configurations_are_refused() -> None:
    entries = {"batch.samples": {"choice": [4, 8]}, "adapt.freeze_layers": {"randint": [0, 2]}}
    stage.refuse_problems(tune(entries, trials=6, adapt={"method": "freeze"}))
    with pytest.raises(RecipeError, match=r"search.trials = 7: the space holds only 6 different configurations"):
        stage.refuse_problems(tune(entries, trials=7, adapt={"method": "freeze"}))


def test_the_whole_of_a_small_space_is_found() -> None:
    entries = {"batch.samples": {"choice": [4, 8]}, "adapt.freeze_layers": {"randint": [0, 2]}}
    search = tune(entries, trials=6, adapt={"method": "freeze"}).search
    drawn = space.sample(search, seed=3)
    assert {tuple(sorted(overrides.items())) for overrides in drawn} == {
        (("adapt.freeze_layers", layers), ("batch.samples", samples)) for layers in (0, 1, 2) for samples in (4, 8)
    }


@given(seed=st.integers(0, 2**31), trials=st.integers(1, 12))
def test_draws_are_repeatable_different_and_spread(seed: int, trials: int) -> None:
    search = Search(
        space={"optimizer.lr": {"loguniform": [1e-4, 1e-2]}, "optimizer.weight_decay": {"uniform": [0.0, 1.0]}},
        trials=trials,
    )
    drawn = space.sample(search, seed)
    assert drawn == space.sample(search, seed)
    assert all(1e-4 <= overrides["optimizer.lr"] <= 1e-2 for overrides in drawn)
    # One draw in each of `trials` equal parts of the range, up to the rounding of a value.
    decays = sorted(overrides["optimizer.weight_decay"] for overrides in drawn)
    assert all(part / trials - 1e-3 <= value <= (part + 1) / trials + 1e-3 for part, value in enumerate(decays))


def test_another_seed_draws_otherwise() -> None:
    search = tune(RAW["search"]["space"]).search
    assert space.sample(search, 0) != space.sample(search, 1)


def test_each_trial_is_a_whole_finetuning_recipe() -> None:
    recipe = tune(
        {"optimizer.lr": {"choice": [0.1, 0.2]}, "adapt.method": {"choice": ["lora", "full"]}}, trials=4, seed=5
    )
    made = space.trials(recipe, "/data", "/base", "/out/trials")
    assert [trial.name for trial in made] == ["000", "001", "002", "003"]
    for trial in made:
        assert isinstance(trial.recipe, FinetuneRecipe)
        assert trial.recipe.optimizer.lr == trial.overrides["optimizer.lr"]
        assert trial.recipe.adapt.method == trial.overrides["adapt.method"]
        assert (trial.recipe.data.examples, trial.recipe.model.source) == ("/data", "/base")
        assert (trial.recipe.output, trial.recipe.seed, trial.recipe.batch.samples) == ("/out/trials", 5, 8)
        assert recipes.validate(recipes.resolved(trial.recipe)) == trial.recipe


def test_a_trial_of_another_method_does_not_inherit_the_settings_of_the_sweep_s() -> None:
    entries = {"adapt.method": {"choice": ["lora", "full", "prefix"]}}
    recipe = tune(entries, trials=3, adapt={"method": "lora"})
    stage.refuse_problems(recipe)
    made = {trial.recipe.adapt.method: trial.recipe for trial in space.trials(recipe, "/data", "/base", "/out")}
    assert set(made) == {"lora", "full", "prefix"}
    assert recipes.resolved(made["full"])["adapt"] == {"method": "full"}
    with pytest.raises(
        RecipeError, match=r"adapt.rank: unknown key here: leave it out, or set adapt.method=lora or dora"
    ):
        stage.refuse_problems(tune(entries, trials=3, adapt={"method": "lora", "rank": 4}))
