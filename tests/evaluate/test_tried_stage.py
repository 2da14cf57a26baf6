"""Perturbations, an attack and explanations through the real evaluate stage, for a model that labels and for one that answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import artifact, stage
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.evaluate import measure
from manta.progress import Progress
from manta.report import page
from manta.schema import EvaluateRecipe
from tests.evaluate import planted
from tests.tasks import labelled

pytestmark = pytest.mark.integration


def lines(place: Path, some: list[dict[str, Any]]) -> str:
    place.write_text("".join(json.dumps(example) + "\n" for example in some))
    return str(place)


def test_the_stage_leaves_drops_an_attack_and_coloured_words(tmp_path: Path, ray_session: None) -> None:
    model = planted.taught(tmp_path / "bert")
    synonyms = tmp_path / "synonyms.tsv"
    synonyms.write_text("match\tvote\n")
    recipe = recipes.validate(
        {
            "kind": "evaluate", "name": "tried", "output": str(tmp_path), "model": {"source": str(model)},
            "data": {"examples": lines(tmp_path / "x.jsonl", planted.examples(12, first=200)), "validation_fraction": 1.0},
            "evaluate": {
                "engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": {"name": "classification"},
                "explain": 3,
                "robustness": {
                    "perturbations": ["lower", "synonyms"], "synonyms": str(synonyms), "rate": 1.0,
                    "attack": {"words": "synonyms", "examples": 8},
                },
            },
        }
    )  # fmt: skip
    assert not isinstance(recipe, recipes.PipelineRecipe)
    made: artifact.Artifact = stage.run(recipe, Progress(quiet=True)).artifact
    report = json.loads(made.folder.read_text("scores.json"))
    tried = report["robustness"]["perturbations"]
    assert report["figures"]["score"] == 100.0
    assert tried["lower"]["drop"] == 0.0 and tried["synonyms"]["drop"] == pytest.approx(50.0)
    assert made.metrics["largest_drop"] == pytest.approx(50.0)
    sport = sum(row["label"] == "sport" for row in report["robustness"]["attack"]["rows"])
    assert made.metrics["attacked_accuracy"] == pytest.approx(100 * (8 - sport) / 8)
    explained = [json.loads(line) for line in made.folder.read_text("explanations.jsonl").splitlines()]
    assert len(explained) == 3
    text = Path(page.write(made.folder.url)).read_text(encoding="utf-8")
    assert (
        "What changed texts cost" in text and "match -&gt; vote" in text and "Which words the labels come from" in text
    )


def test_changed_questions_are_put_to_a_model_that_answers(tmp_path: Path) -> None:
    model = labelled.llama(tmp_path / "llama")
    recipe = recipes.validate(
        {
            "kind": "evaluate", "name": "tried", "model": {"source": "./m"},
            "data": {"examples": "./x", "validation_fraction": 1.0},
            "evaluate": {
                "engine": "transformers", "dtype": "float32", "perplexity_rows": 0,
                "task": {"name": "summarisation", "max_input_tokens": 12, "max_target_tokens": 3},
                "robustness": {"perturbations": ["upper", "blanks"]},
            },
        }
    )  # fmt: skip
    assert isinstance(recipe, EvaluateRecipe)
    some = [{"input": f"cake {number} film", "target": "cake"} for number in range(3)]
    inputs = {"data.examples": Resolved("data.examples", "x", "file", lines(tmp_path / "x.jsonl", some), "", "")}
    source = Resolved("model.source", "m", "directory", str(model), "", "")
    outcome = measure._measure(recipe, model, inputs, lambda _: None, source)
    for name, after in outcome["perturbed"].items():
        changed = [{**example, "input": example["input"].upper()} for example in some] if name == "upper" else None
        assert after["references"] == outcome["references"] and len(after["predictions"]) == 3
        if changed is not None:
            told = {
                "data.examples": Resolved("data.examples", "x", "file", lines(tmp_path / "y.jsonl", changed), "", "")
            }
            alone = measure._measure(trial_free(recipe), model, told, lambda _: None, source)
            assert after["predictions"] == alone["predictions"], "as if they were the examples"


def trial_free(recipe: EvaluateRecipe) -> EvaluateRecipe:
    from manta.evaluate.robustness import trial

    return trial.without(recipe)
