"""`manta tune --best-of`: which trial it names, the recipe it gives, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import cli
from manta import recipe as recipes
from manta.errors import InputError
from manta.schema import FinetuneRecipe
from manta.tune import best, reading
from tests.report.made_up_sweep import FIVE, line, write


def test_the_recipe_of_a_rank_makes_that_trial_again(tmp_path: Path) -> None:
    place = write(tmp_path, FIVE).url
    first, second = best.best_of(place), best.best_of(place, 2)
    assert (first.line["trial"], second.line["trial"]) == ("003", "004")
    made = recipes.validate(yaml.safe_load(first.recipe()))
    assert isinstance(made, FinetuneRecipe)
    assert (made.name, made.output) == ("found-best", str(tmp_path))
    assert made.optimizer.lr == 1e-2
    assert made.adapt.model_dump()["rank"] == 8
    assert yaml.safe_load(second.recipe())["name"] == "found-004", "not in the place of the best"
    assert first.recipe().startswith(
        '# Trial 003 of the sweep found: optimizer.lr=0.01, adapt.method="lora", adapt.rank=8\n'
    )


def test_what_it_says_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write(tmp_path, FIVE).url
    assert cli.main(["tune", "--best-of", place]) == 0
    said = capsys.readouterr().out
    assert said.startswith("trial 003, the best of 5 trials\n  optimizer.lr     0.01\n")
    assert f"  manta finetune {place}/best.yaml model.source={place} name=found-on" in said
    assert cli.main(["tune", "--best-of", place, "--rank", "2"]) == 0
    said = capsys.readouterr().out
    assert f"  manta tune --best-of {place} --rank 2 --recipe-only > best.yaml\n  manta finetune best.yaml\n" in said
    assert f"model.source={place}/trials/004" in said
    assert cli.main(["tune", "--best-of", place, "--recipe-only"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["kind"] == "finetune"
    assert cli.main(["tune", "--best-of", place, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["event"], told["trial"], told["rank"], list(told["files"])) == ("trial", "003", 1, ["best.yaml"])


def test_a_sweep_that_is_not_finished_has_a_best_so_far(tmp_path: Path) -> None:
    place = write(tmp_path, [*FIVE, line("005", None, "under way")], finish=False)
    said = best.text(best.best_of(place.url))
    assert said.startswith("trial 003, the best of 6 trials so far (the sweep is not finished)")
    assert f"its model: {place.url}/trials/003\n" in said


@pytest.mark.parametrize(
    ("where", "rank", "message"),
    [
        ("found", 4, "3 of its 5 trials are complete: give a rank from 1 to 3"),
        ("found", 0, "--rank 0: 1 is the best trial"),
        ("nothing", 1, "holds no run .*name a folder that `manta tune` made"),
        ("found/trials/000", 1, "holds a finetune run, but a sweep is needed.*name the sweep that it is a trial of"),
    ],
)
def test_a_wrong_folder_or_rank_is_refused_with_a_remedy(tmp_path: Path, where: str, rank: int, message: str) -> None:
    write(tmp_path, FIVE)
    with pytest.raises(InputError, match=message):
        best.best_of(f"{tmp_path}/{where}", rank)


def test_without_an_allowed_trial_there_is_no_best(tmp_path: Path) -> None:
    place = write(tmp_path, FIVE, finish=False, constraints={"validation_loss": {"at_most": 1.0}}).url
    with pytest.raises(
        InputError,
        match=r"no best trial: 0 of its 5 trials are complete and keep the constraints of validation_loss: wait .*manta resume",
    ):
        best.best_of(place)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a recipe file, or a sweep that ran"),
        (["x.yaml", "--rank", "2"], "--rank is for --best-of"),
        (["x.yaml", "--recipe-only"], "--recipe-only is for --best-of"),
        (["x.yaml", "--best-of", "runs/x"], "leave x.yaml out"),
        (["--best-of", "runs/x", "--replace"], "leave --replace out"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["tune", *words])
    assert message in capsys.readouterr().err


def test_generations_follow_each_other_in_curves(tmp_path: Path) -> None:
    trials = [line("000-g0", 3.0), line("000-g2", 2.0, parent="000-g0")]
    changes: dict[str, Any] = {
        "method": "population",
        "population": {"generations": 3},
        "space": {"optimizer.lr": {"uniform": [0.1, 0.2]}},
    }
    sweep = reading.open_sweep(write(tmp_path, trials, **changes).url)
    assert [[step for step, _ in curve.points] for curve in reading.curves(sweep)] == [[3, 6, 9], [9, 12, 15]]


def test_thinning_keeps_both_ends() -> None:
    points = [(float(n), float(n * n)) for n in range(101)]
    assert [x for x, _ in reading.thinned(points, 5)] == [0, 25, 50, 75, 100]
    assert reading.thinned(points[:4], 5) == points[:4]
