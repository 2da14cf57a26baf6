"""Population based training: who copies whom, what changes, and that it follows an optimum that moves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import pipeline, stage
from manta import recipe as recipes
from manta.errors import RecipeError
from manta.sections.search import Search
from manta.tune import best as best_trial
from manta.tune import population, space
from manta.tune.order import END, Member, Reached, summary
from manta.tune.population import Population
from tests.tune import faked, simulated
from tests.tune.test_space import tune

SETTINGS = {"generations": 6, "quantile": 0.25}
SEARCH = {"method": "population", "population": SETTINGS}


def gain(rate: float, generation: int) -> float:
    """What a generation learns: most at a rate that falls to a third with each."""
    return math.exp(-((math.log10(rate) - math.log10(0.05 / 3**generation)) ** 2) / 0.05)


class Played:
    """A population whose members' models are one number each, the loss that training lowers."""

    def __init__(self, made: Search, seed: int = 0, chance: int = 0, fails: Callable[[Member], bool] = lambda _: False):
        self.source, self.fails = random.Random(chance), fails
        self.order = Population(made, seed)
        self.losses: dict[str, float] = {}
        self.order.advance()

    def step(self) -> bool:
        waiting = self.order.waited_for
        if not waiting:
            return False
        member = self.source.choice(waiting)
        start = self.losses[member.parent] if member.parent else 10.0
        assert member.generation is not None
        self.losses[member.name] = start - gain(member.overrides["optimizer.lr"], member.generation)
        failure = "out of memory" if self.fails(member) else ""
        figures = {} if failure else {"validation_loss": self.losses[member.name]}
        self.order.reached(member.number, END, Reached(figures, True, failure))
        self.order.advance()
        return True

    def run(self) -> list[dict[str, Any]]:
        while self.step():
            pass
        assert self.order.finished
        return [summary(member) for member in self.order.members]


def best(lines: list[dict[str, Any]]) -> float:
    return min(line["figures"]["validation_loss"] for line in lines if line["status"] == "complete")


def test_an_optimum_that_moves_is_followed_better_than_by_any_fixed_setting_of_a_random_search() -> None:
    made = simulated.search(trials=8, **SEARCH)
    found = [best(Played(made, seed).run()) for seed in range(12)]
    drawn = [space.sample(simulated.search(trials=8), seed) for seed in range(12)]
    fixed = [min(10.0 - sum(gain(one["optimizer.lr"], at) for at in range(6)) for one in each) for each in drawn]
    assert sum(found) / 12 < sum(fixed) / 12 - 0.5, "the same steps, spent alike"
    assert sum(one < other for one, other in zip(found, fixed, strict=True)) >= 10


def test_the_order_of_arrival_changes_nothing_and_the_seed_does() -> None:
    made = simulated.search(trials=6, **SEARCH)
    first = Played(made, chance=0).run()
    assert len(first) == 36
    for chance in range(1, 6):
        assert Played(made, chance=chance).run() == first
    assert Played(made, seed=1).run() != first


def test_what_is_told_again_stands_where_it_stood() -> None:
    made = simulated.search(trials=4, **SEARCH)
    whole = Played(made).run()
    for moment in range(1, 24, 4):
        broken, again = Played(made, chance=moment), Played(made, chance=moment + 1)
        for _ in range(moment):
            broken.step()
        again.order._known.update(broken.order._known)
        again.losses.update(broken.losses)
        again.order.advance()
        assert [summary(one) for one in again.order.members] == [summary(one) for one in broken.order.members]
        assert again.run() == whole


def told(order: Population, losses: dict[int, float | None]) -> None:
    for number, loss in losses.items():
        figures = {} if loss is None else {"validation_loss": loss}
        order.reached(number, END, Reached(figures, True, "" if figures else "out of memory"))
    order.advance()


def test_the_worst_copy_the_best_by_hand() -> None:
    """Of five members a quantile of 0.4 is two: the two worst copy one of the two best, the third goes on."""
    settings = {"generations": 2, "quantile": 0.4, "factors": [2.0], "resample": 0.0}
    order = Population(simulated.search(trials=5, method="population", population=settings), seed=0)
    order.advance()
    assert [one.name for one in order.members] == ["000-g0", "001-g0", "002-g0", "003-g0", "004-g0"]
    assert [one.parent for one in order.members] == [""] * 5
    told(order, {0: 1.0, 1: 5.0, 2: 2.0, 3: 4.0})
    assert len(order.members) == 5, "one is not known yet"
    told(order, {4: 3.0})
    before, after = order.members[:5], order.members[5:]
    for slot in (0, 2, 4):
        assert after[slot].parent == before[slot].name
        assert after[slot].overrides == before[slot].overrides
    for slot in (1, 3):
        parent = next(one for one in before if one.name == after[slot].parent)
        assert parent.slot in (0, 2)
        doubled = min(2 * parent.overrides["optimizer.lr"], 0.1)
        assert after[slot].overrides["optimizer.lr"] == pytest.approx(doubled, rel=1e-3)
    assert not order.finished
    told(order, dict.fromkeys(range(5, 10), 1.0))
    assert order.finished
    assert order.waited_for == []


def test_those_that_fail_copy_the_best_and_after_nobody_there_is_nothing() -> None:
    made = simulated.search(trials=4, **SEARCH)
    order = Population(made, seed=0)
    order.advance()
    told(order, {0: None, 1: None, 2: None, 3: 2.0})
    assert [one.parent for one in order.members[4:]] == ["003-g0"] * 4
    assert order.members[7].overrides == order.members[3].overrides, "the best goes on as it is"
    told(order, dict.fromkeys(range(4, 8)))
    assert order.finished
    assert len(order.members) == 8


def test_a_member_that_misses_a_constraint_is_worse_than_one_that_keeps_it() -> None:
    made = simulated.search(trials=2, constraints={"model_bytes": {"at_most": 5.0}}, **SEARCH)
    order = Population(made, seed=0)
    order.advance()
    for number, (loss, size) in enumerate([(1.0, 6.0), (2.0, 5.0)]):
        order.reached(number, END, Reached({"validation_loss": loss, "model_bytes": size}, True))
    order.advance()
    assert [one.parent for one in order.members[2:]] == ["001-g0", "001-g0"]


def test_no_generation_begins_when_the_budget_is_spent() -> None:
    order = Population(simulated.search(trials=2, **SEARCH), 0, lambda number: number < 2)
    order.advance()
    told(order, {0: 1.0, 1: 2.0})
    assert order.finished
    assert len(order.members) == 2


def test_changes_stay_within_the_space() -> None:
    entries = {
        "optimizer.lr": {"loguniform": [1e-3, 2e-3]},
        "batch.samples": {"randint": [2, 5]},
        "schedule.name": {"choice": ["constant", "linear", "cosine"]},
        "optimizer.weight_decay": {"uniform": [0.0, 0.1], "when": {"schedule.name": "cosine"}},
    }
    made = simulated.search(**SEARCH).model_copy(update={"space": entries})
    now: dict[str, Any] = {"optimizer.lr": 1.9e-3, "batch.samples": 4, "schedule.name": "linear"}
    source, names = random.Random(0), set()
    for _ in range(200):
        now = population.changed(made, now, source)
        names.add(now["schedule.name"])
        assert 1e-3 <= now["optimizer.lr"] <= 2e-3
        assert now["batch.samples"] in (2, 3, 4, 5)
        assert ("optimizer.weight_decay" in now) == (now["schedule.name"] == "cosine")
    assert names == {"constant", "linear", "cosine"}


def test_a_choice_steps_to_a_neighbour() -> None:
    settings = {"generations": 2, "resample": 0.0}
    made = simulated.search(method="population", population=settings, space={"batch.samples": {"choice": [2, 4, 8]}})
    source = random.Random(0)
    assert {population.changed(made, {"batch.samples": 4}, source)["batch.samples"] for _ in range(30)} == {2, 8}
    assert {population.changed(made, {"batch.samples": 2}, source)["batch.samples"] for _ in range(30)} == {2, 4}


LR = {"optimizer.lr": {"loguniform": [1e-4, 1e-1]}}


@pytest.mark.parametrize(
    ("search", "changes", "entries", "message"),
    [
        ({}, {"adapt": {"method": "lora"}}, LR, "trial.adapt.method = 'lora': .* set adapt.method=full or freeze"),
        ({}, {"stop": {"epochs": 1.0}}, LR, "set trial.stop.steps"),
        ({}, {"stop": {"steps": 7}}, LR, "generations = 6: does not divide trial.stop.steps=7: set that to 12"),
        ({"repeats": 2}, {}, LR, "search.repeats = 2"),
        ({"early": {"method": "asha", "first_step": 1}}, {}, LR, "search.early: a population gives"),
        (
            {},
            {},
            {"adapt.freeze_layers": {"choice": [0, 1]}},
            "adapt.freeze_layers: cannot change while a model trains",
        ),
        ({}, {}, {"stop.steps": {"choice": [6, 12]}}, "stop.steps: cannot change while a model trains"),
        ({"objectives": {"validation_loss": "min", "model_bytes": "min"}}, {}, LR, "ranked by one objective"),
    ],
)
def test_what_does_not_go_with_a_population_is_refused(
    search: dict[str, Any], changes: dict[str, Any], entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        stage.refuse_problems(tune(entries, 4, 0, SEARCH | search, **({"stop": {"steps": 12}} | changes)))


def test_the_section_and_the_method_go_together() -> None:
    for wrong in ({"method": "population"}, {"population": SETTINGS}):
        with pytest.raises(RecipeError, match=r"search\.population"):
            tune(LR, 4, 0, wrong)
    stage.refuse_problems(tune(LR, 4, 0, SEARCH, stop={"steps": 12}))


def test_generations_are_runs_of_their_parents_models(tmp_path: Path) -> None:
    recipe = tune(LR, 3, 5, SEARCH | {"population": {"generations": 2}}, stop={"steps": 8})
    seen: dict[str, dict[str, Any]] = {}

    def watched(task: faked.Task) -> None:
        seen[task["run"]] = task["recipe"]

    cluster = faked.Cluster(recipe, tmp_path, ending=watched)
    lines = cluster.run()
    assert [line["trial"] for line in lines] == [f"{slot:03d}-g{at}" for at in range(2) for slot in range(3)]
    for line in lines:
        given = seen[line["trial"]]
        assert given["stop"]["steps"] == 4, "of eight, in two generations"
        assert given["seed"] == (6 if "parent" in line else 5), "another order of the examples"
        source = f"{tmp_path}/trials/{line['parent']}" if "parent" in line else "base"
        assert given["model"] == {"source": source}
    again = faked.Cluster(recipe, tmp_path)
    assert again.run() == lines
    assert again.launched == []


def test_the_winner_s_recipes_are_a_pipeline(tmp_path: Path) -> None:
    recipe = tune(LR, 2, 0, SEARCH | {"population": {"generations": 2}}, stop={"steps": 8}, model={"source": "./base"})
    (tmp_path / "base").mkdir()
    recipe = recipe.model_copy(update={"output": str(tmp_path)})
    lines = [
        {"trial": "000-g0", "overrides": {"optimizer.lr": 0.01}},
        {"trial": "001-g1", "overrides": {"optimizer.lr": 0.02}, "parent": "000-g0"},
    ]
    (tmp_path / "run").mkdir()
    for name, text in best_trial.recipe_files(recipe, lines, lines[1], "sweep-best").items():
        (tmp_path / "run" / name).write_text(text)
    made = yaml.safe_load((tmp_path / "run/best.yaml").read_text())
    assert made["kind"] == "pipeline"
    first, second = (recipes.load(tmp_path / "run" / name) for name in made["stages"])
    assert (first.model.source, second.model.source) == ("./base", "sweep-best-g0")  # type: ignore[union-attr]
    assert (first.optimizer.lr, second.optimizer.lr) == (0.01, 0.02)  # type: ignore[union-attr]
    assert [one.seed for one in (first, second)] == [0, 1]  # type: ignore[union-attr]
    assert pipeline.PipelineRecipe.model_validate(made).name == "sweep-best"
