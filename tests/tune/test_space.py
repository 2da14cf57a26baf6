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
from manta.sections.search import Search
from manta.tune import checks, space

RAW: dict[str, Any] = {
    "kind": "tune",
    "name": "sweep",
    "trial": {
        "kind": "finetune",
        "data": {"examples": "shards"},
        "model": {"source": "base"},
        "task": {"name": "summarisation"},
        "batch": {"samples": 8},
        "stop": {"steps": 3},
    },
    "search": {"trials": 2, "space": {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}}},
}


def tune(
    entries: dict[str, Any], trials: int = 2, seed: int = 0, search: dict[str, Any] | None = None, **changes: Any
) -> TuneRecipe:
    """A sweep over `entries`; `changes` are of its trials."""
    raw = copy.deepcopy(RAW) | {"seed": seed}
    raw["trial"] |= changes
    raw["search"] = {"trials": trials, "space": entries, **(search or {})}
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
    wrong = ["tune.search.objectives={accuracy: max}", "tune.search.trials=9999", "pretrain.stop.steps=-1"]
    with pytest.raises(RecipeError) as refusal:
        pipeline.load("jobs/recipes/quickstart/pipeline.yaml", wrong)
    assert {problem.path for problem in refusal.value.problems} >= {
        "tune: search.objectives.accuracy",
        "pretrain: stop.steps",
    }


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


PLACES = {"trial.data.examples": "/data", "trial.model.source": "/base"}


def test_each_trial_is_a_whole_finetuning_recipe() -> None:
    recipe = tune(
        {"optimizer.lr": {"choice": [0.1, 0.2]}, "adapt.method": {"choice": ["lora", "full"]}}, trials=4, seed=5
    )
    for overrides in space.sample(recipe.search, recipe.seed):
        made = space.made(recipe, overrides, "003", "/out/trials", 7, PLACES).recipe
        assert isinstance(made, FinetuneRecipe)
        assert made.optimizer.lr == overrides["optimizer.lr"]
        assert made.adapt.method == overrides["adapt.method"]
        assert (made.data.examples, made.model.source) == ("/data", "/base")
        assert (made.name, made.output, made.seed, made.batch.samples) == ("003", "/out/trials", 7, 8)
        assert recipes.validate(recipes.resolved(made)) == made


def test_a_trial_validates_with_the_sweeps_second_file() -> None:
    recipe = tune({"optimizer.lr": {"choice": [0.1, 0.2]}}, data={"examples": "a.jsonl", "validation": "b.jsonl"})
    assert {"trial.data.examples", "trial.data.validation"} <= set(recipes.input_refs(recipe))
    made = space.made(recipe, {}, places=PLACES | {"trial.data.validation": "/second"}).recipe
    assert isinstance(made, FinetuneRecipe)
    assert (made.data.examples, made.data.validation) == ("/data", "/second")


def test_a_trial_of_another_method_does_not_inherit_the_settings_of_the_sweep_s() -> None:
    entries = {"adapt.method": {"choice": ["lora", "full", "prefix"]}}
    recipe = tune(entries, trials=3, adapt={"method": "lora"})
    stage.refuse_problems(recipe)
    found = {}
    for overrides in space.sample(recipe.search, 0):
        made = space.made(recipe, overrides).recipe
        assert isinstance(made, FinetuneRecipe)
        found[made.adapt.method] = made
    assert set(found) == {"lora", "full", "prefix"}
    assert recipes.resolved(found["full"])["adapt"] == {"method": "full"}
    with pytest.raises(
        RecipeError, match=r"adapt.rank: unknown key here: leave it out, or set adapt.method=lora or dora"
    ):
        stage.refuse_problems(tune(entries, trials=3, adapt={"method": "lora", "rank": 4}))


LORA = {"adapt.method": {"choice": ["full", "lora"]}}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({**LORA, "adapt.rank": {"choice": [4], "when": {"adapt.metod": "lora"}}}, "is no field of the space; did you mean 'adapt.method'"),
        ({**LORA, "adapt.rank": {"choice": [4], "when": {"adapt.method": "dora"}}}, "when.adapt.method = 'dora': never comes: adapt.method is one of full, lora"),
        ({**LORA, "adapt.rank": {"choice": [4], "when": ["adapt.method"]}}, "needs fields of the space and their values"),
        (
            {"optimizer.lr": {"uniform": [0.1, 0.2]}, "batch.samples": {"choice": [4], "when": {"optimizer.lr": 0.1}}},
            "a condition needs a field with a choice of values",
        ),
        (
            {
                "batch.samples": {"choice": [4], "when": {"stop.steps": 2}},
                "stop.steps": {"choice": [2], "when": {"batch.samples": 4}},
            },
            "the conditions of batch.samples, stop.steps wait for each other",
        ),
        ({**LORA, "adapt.rank": {"choice": [4, 8]}}, "adapt.rank.choice = 4: unknown key here: leave it out, or set adapt.method=lora or dora"),
        (
            {**LORA, "adapt.rank": {"choice": [0], "when": {"adapt.method": "lora"}}},
            "adapt.rank.choice = 0: should be greater than",
        ),
    ],
)  # fmt: skip
def test_bad_conditions_are_explained(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage.refuse_problems(tune(entries, trials=1))


METHODS = ["full", "freeze", "lora", "dora", "ia3", "prefix", "bitfit"]


@given(
    ranked=st.lists(st.sampled_from(METHODS), unique=True, max_size=3),
    frozen=st.lists(st.sampled_from(METHODS), unique=True, max_size=3),
    seed=st.integers(0, 99),
)
def test_a_space_that_passes_never_makes_an_invalid_recipe(ranked: list[str], frozen: list[str], seed: int) -> None:
    """Whatever the conditions: the space is refused, or every configuration that it draws is a recipe."""
    entries: dict[str, Any] = {"adapt.method": {"choice": METHODS}}
    if ranked:
        entries["adapt.rank"] = {"randint": [1, 4], "when": {"adapt.method": ranked}}
    if frozen:
        entries["adapt.freeze_layers"] = {"choice": [0, 1], "when": {"adapt.method": frozen}}
    recipe = tune(entries, trials=7, seed=seed)
    if [*checks.problems(recipe)]:
        assert not set(ranked) <= {"lora", "dora"} or not set(frozen) <= {"freeze"}
        return
    for overrides in space.sample(recipe.search, seed):
        space.made(recipe, overrides)


@pytest.mark.parametrize(
    ("search", "trial", "message"),
    [
        ({"objectives": {"validation_los": "min"}}, {}, "search.objectives.validation_los: choose one of .* did you mean 'validation_loss'"),
        ({"constraints": {"latency": {"at_most": 1.0}}}, {}, "search.constraints.latency: choose one of"),
        ({"constraints": {"parameters": {}}}, {}, "set exactly one of at_most and at_least"),
        ({"early": {"method": "asha", "first_step": 3}}, {}, "search.early.first_step = 3: a trial ends at step 3"),
        ({"early": {"method": "asha", "first_step": 1}}, {"stop": {"epochs": 1.0}}, "set trial.stop.steps"),
        ({"early": {"method": "asha", "first_step": 1}, "objectives": {"parameters": "min"}}, {}, "parameters is known at a trial's end alone"),
        (
            {"early": {"method": "asha", "first_step": 1}, "objectives": {"validation_loss": "min", "parameters": "min"}},
            {},
            "name one objective",
        ),
        ({"method": "grid"}, {}, "a grid needs values"),
        ({"warm_start": "other"}, {}, "random learns from no results: set search.method=tpe"),
    ],
)  # fmt: skip
def test_searches_that_cannot_be_are_explained(search: dict[str, Any], trial: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage.refuse_problems(tune({"optimizer.lr": {"uniform": [0.1, 0.2]}}, search=search, **trial))


def test_pretraining_and_compression_are_searched_as_well() -> None:
    pretrain = {
        "kind": "pretrain",
        "data": {"shards": "shards"},
        "model": {"preset": "llama-tiny"},
        "batch": {"tokens": 4096},
        "stop": {"steps": 4},
    }
    entries = {"model.hidden_size": {"choice": [64, 128]}, "optimizer.lr": {"loguniform": [1e-4, 1e-2]}}
    raw = {"kind": "tune", "name": "sweep", "trial": pretrain, "search": {"space": entries}}
    recipe = recipes.validate(raw)
    assert isinstance(recipe, TuneRecipe)
    stage.refuse_problems(recipe)
    assert recipe.first.kind == "pretrain"
    assert recipes.input_refs(recipe).keys() == {"trial.data.shards"}
    compress = {
        "kind": "compress",
        "model": {"source": "base"},
        "compress": {"quantise": {}, "calibration": {"shards": "shards"}},
    }
    raw["trial"] = compress
    raw["search"] = {
        "space": {"compress.quantise.smoothquant": {"choice": [0.5, 0.8]}},
        "trials": 2,
        "objectives": {"size_ratio": "min"},
    }
    recipe = recipes.validate(raw)
    assert isinstance(recipe, TuneRecipe)
    stage.refuse_problems(recipe)


def test_what_the_trials_run_on_is_not_the_sweeps_identity() -> None:
    entries = {"optimizer.lr": {"uniform": [0.1, 0.2]}}
    one, two = tune(entries), tune(entries, resources={"workers": 2}, checkpoint={"every_steps": 1})
    assert recipes.fingerprint(one, {}) == recipes.fingerprint(two, {})
    assert recipes.fingerprint(one, {}) != recipes.fingerprint(tune(entries, search={"in_flight": 1}), {})
