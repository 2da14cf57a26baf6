"""Robustness of a model that goes by one planted word: the attack hits it, perturbations cost what they take of it; the sums by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import recipe as recipes
from manta.artifact import Resolved
from manta.errors import InputError, RecipeError
from manta.evaluate import labelling
from manta.evaluate import run as stage
from manta.evaluate.robustness import summary, trial
from manta.schema import EvaluateRecipe
from manta.sections.robustness import Attack
from tests.evaluate import planted

RECIPE: dict[str, Any] = {
    "kind": "evaluate", "name": "tried", "model": {"source": "./m"},
    "data": {"examples": "./x", "validation_fraction": 1.0},
    "evaluate": {
        "engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": {"name": "classification"},
        "robustness": {"attack": {}}, "explain": 4,
    },
}  # fmt: skip


def recipe_of(*overrides: str) -> EvaluateRecipe:
    made = recipes.validate(recipes.override(RECIPE, overrides))
    assert isinstance(made, EvaluateRecipe)
    return made


def inputs_of(folder: Path, examples: list[dict[str, Any]], model: Path, **files: Path) -> dict[str, Resolved]:
    file = folder / "x.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    given = {
        "data.examples": file,
        "model.source": model,
        **{name.replace("__", "."): path for name, path in files.items()},
    }
    return {role: Resolved(role, str(path), "file", str(path), "", "") for role, path in given.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.taught(tmp_path_factory.mktemp("planted"))


def measured(recipe: EvaluateRecipe, inputs: dict[str, Resolved], model: Path) -> dict[str, Any]:
    return labelling.measure(recipe, model, inputs, lambda _: None, inputs["model.source"])


# --- a whole evaluation ----------------------------------------------------------------------------------------------


def test_a_planted_word_is_hit_by_the_attack_and_explains_the_label(model: Path, tmp_path: Path) -> None:
    some = planted.examples(12, first=200)
    synonyms = tmp_path / "synonyms.tsv"
    synonyms.write_text("match\tgame\tvote\nvote\tballot\tmatch\n")
    recipe = recipe_of(
        "evaluate.robustness.perturbations=[upper, synonyms, typos]",
        "evaluate.robustness.synonyms=./synonyms.tsv",
        "evaluate.robustness.rate=1.0",
    )
    inputs = inputs_of(tmp_path, some, model, evaluate__robustness__synonyms=synonyms)
    outcome = measured(recipe, inputs, model)
    assert outcome["predictions"] == [example["label"] for example in some]
    plain = measured(recipe_of("evaluate.robustness=null", "evaluate.explain=0"), inputs, model)
    assert {name: outcome[name] for name in plain} == plain, "what else is asked changes nothing"

    for row in outcome["attacked"]:
        assert row["right"] and row["flipped"] and row["answer_after"] != row["label"]
        [(place, word, by)] = row["changes"]
        assert word in planted.TRIGGERS and row["text"].split()[place] == by
        assert some[row["example"]]["text"].split()[place] == word
    upper = outcome["perturbed"]["upper"]
    assert upper["predictions"] == outcome["predictions"] and upper["shown"] == [], "its tokenizer knows no capitals"
    lost = outcome["perturbed"]["synonyms"]["predictions"]
    assert lost != outcome["predictions"]
    for each in outcome["explanations"]:
        assert max(each["words"], key=lambda word: word["attribution"])["text"] in planted.TRIGGERS
        assert each["complete"] and each["prediction"] == each["reference"] == some[each["example"]]["label"]

    report = stage.finite(stage.summarise(recipe, {"model": outcome}))
    tried = report["robustness"]["perturbations"]
    right = sum(one == other for one, other in zip(lost, outcome["references"], strict=True))
    assert tried["synonyms"]["score"] == pytest.approx(100 * right / 12)
    assert tried["synonyms"]["drop"] == pytest.approx(100 - 100 * right / 12) and tried["upper"]["drop"] == 0.0
    assert tried["synonyms"]["changed"] == 12 - right
    assert report["figures"]["attacked_accuracy"] == 0.0
    assert report["figures"]["largest_drop"] == max(each["drop"] for each in tried.values())
    attack = report["robustness"]["attack"]
    assert attack["words_changed"] == pytest.approx(100 / 8) and attack["flipped"] == 100.0 and attack["drop"] == 100.0


def test_synonyms_are_what_an_attack_may_put_in(model: Path, tmp_path: Path) -> None:
    """The dictionary knows nothing of one trigger, so its examples stand."""
    synonyms = tmp_path / "synonyms.jsonl"
    synonyms.write_text('{"word": "match", "synonyms": ["vote"]}\n')
    recipe = recipe_of(
        "evaluate.robustness.perturbations=[]",
        "evaluate.robustness.synonyms=./synonyms.jsonl",
        "evaluate.robustness.attack.words=synonyms",
        "evaluate.robustness.attack.examples=6",
        "evaluate.explain=0",
    )
    some = planted.examples(12, first=300)
    outcome = measured(recipe, inputs_of(tmp_path, some, model, evaluate__robustness__synonyms=synonyms), model)
    assert len(outcome["attacked"]) == 6 and "perturbed" not in outcome and "explanations" not in outcome
    assert [row["flipped"] for row in outcome["attacked"]] == [row["label"] == "sport" for row in outcome["attacked"]]
    for row in outcome["attacked"]:
        if row["flipped"]:
            assert [change[1:] for change in row["changes"]] == [["match", "vote"]]
        else:
            assert row["text"] == some[row["example"]]["text"] and row["answer_after"] == row["label"]


def test_tags_stay_with_their_words(tmp_path: Path) -> None:
    from tests.tasks import labelled

    names = ["B-LOC", "B-PER", "I-LOC", "O"]
    head = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    tagger = labelled.bert(tmp_path / "m", "BertForTokenClassification", **head)
    recipe = recipe_of(
        "evaluate.task={name: tagging}", "evaluate.robustness.attack=null", "evaluate.explain=0",
    )  # fmt: skip
    outcome = measured(recipe, inputs_of(tmp_path, labelled.ENTITIES, tagger), tagger)
    assert list(outcome["perturbed"]) == ["typos", "lower", "upper", "title", "punctuation", "blanks"]
    for after in outcome["perturbed"].values():
        assert after["references"] == outcome["references"]
        assert [len(tags) for tags in after["predictions"]] == [len(tags) for tags in outcome["references"]]
    report = stage.summarise(recipe, {"model": outcome})
    assert set(report["robustness"]["perturbations"]) == set(outcome["perturbed"])


# --- sums ------------------------------------------------------------------------------------------------------------


def test_drops_by_hand() -> None:
    wanted = ["a", "a", "b", "b"]
    after = {"predictions": ["a", "b", "a", "b"], "references": wanted, "shown": []}
    given = {"predictions": ["a", "a", "b", "a"], "references": wanted, "perturbed": {"typos": after}}
    found = summary.summarised("classification", given, None, 0)["perturbations"]["typos"]
    assert found["score"] == 50.0 and found["drop"] == pytest.approx(25.0) and found["changed"] == 3
    low, high = found["interval"]
    # Four draws of +1, +1, -1 and 0: 100 points in 16 of 256 cases, -75 or less in 5, -50 or less in 19.
    assert high == 100.0 and low in (-50.0, -75.0)
    assert found["p_swap"] == 1.0, "of 8 ways to swap three answers, all differ by 25 points or 75"
    assert summary.single({"perturbations": {"typos": found}}) == {"largest_drop": pytest.approx(25.0)}
    same = {**given, "perturbed": {"typos": {**after, "predictions": given["predictions"]}}}
    still = summary.summarised("classification", same, None, 0)["perturbations"]["typos"]
    assert still["drop"] == 0.0 and still["interval"] == [0.0, 0.0] and still["changed"] == 0


def test_an_answer_that_moved_is_wanted_as_it_now_is() -> None:
    """Of text that was changed with its references: exact copies are right both times."""
    after = {"predictions": ["A B"], "references": ["A B"], "shown": []}
    given = {"predictions": ["a b"], "references": ["a b"], "perturbed": {"upper": after}}
    found = summary.summarised("summarisation", given, None, 0)["perturbations"]["upper"]
    assert found["score"] == pytest.approx(100.0) and found["drop"] == pytest.approx(0.0)


def test_attacks_by_hand() -> None:
    rows = [
        {"right": False},
        {"right": True, "flipped": True, "changes": [[0, "a", "b"]], "num_words": 4, "num_asked": 10},
        {"right": True, "flipped": True, "changes": [[0, "a", "b"], [1, "c", "d"]], "num_words": 4, "num_asked": 20},
        {"right": True, "flipped": False, "changes": [], "num_words": 4, "num_asked": 30},
    ]
    given = {"predictions": [], "references": [], "attacked": rows}
    found = summary.summarised("classification", given, Attack(budget=0.5), 0)["attack"]
    assert found["accuracy"] == 75.0 and found["attacked_accuracy"] == 25.0 and found["drop"] == pytest.approx(50.0)
    assert found["flipped"] == pytest.approx(100 * 2 / 3) and found["words_changed"] == pytest.approx(100 * 3 / 8)
    assert found["asked"] == 20.0 and found["budget"] == 50.0


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["evaluate.task={name: tagging}", "evaluate.robustness=null"], "evaluate.explain=0"),
        (["evaluate.task={name: tagging}", "evaluate.explain=0"], "evaluate.robustness.attack=null"),
        (["evaluate.task={name: classification, several: true}", "evaluate.explain=0"], "several=false"),
        (["evaluate.task=null", "evaluate.explain=0"], "evaluate.robustness=null"),
        (["evaluate.robustness.perturbations=[synonyms]"], "name a file as evaluate.robustness.synonyms"),
        (["evaluate.robustness.attack.words=synonyms"], "name a file as evaluate.robustness.synonyms"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_starts(
    overrides: list[str], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial.wordnet, "folder", lambda: None)
    with pytest.raises(InputError, match=remedy):
        trial.check(recipe_of(*overrides))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["evaluate.robustness={perturbations: []}"], "nothing is tried"),
        (["evaluate.robustness.perturbations=[typos, typos]"], "name one twice"),
        (["evaluate.robustness.synonyms=./x.tsv"], "not asked for"),
        (["evaluate.robustness.perturbations=[shout]"], "typos"),
    ],
)
def test_settings_that_nothing_reads_are_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe_of(*overrides)


def test_a_yardstick_is_not_tried() -> None:
    plain = trial.without(recipe_of())
    assert plain.evaluate.robustness is None and plain.evaluate.explain == 0
    assert trial.again(plain, {}, [{"text": "a", "label": "b"}]) == {}
