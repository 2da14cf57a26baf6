"""Classification through the real chain: Ray Train with two workers, validation by score, the evaluate stage after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta.errors import InputError
from manta.train.metrics import read
from tests.tasks import labelled
from tests.train.staged import made

pytestmark = pytest.mark.integration
PLACES = ("film", "match", "cake", "vote", "place", "day", "book")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and 70 short reviews, of which some 20 validate."""
    folder = tmp_path_factory.mktemp("runs")
    labelled.bert(folder / "bert")
    lines = [
        {"review": f"a {word} {what}", "stars": label}
        for what in PLACES
        for words, label in ((labelled.GOOD, "positive"), (labelled.BAD, "negative"))
        for word in words
    ]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def finetune(place: Path, **given: Any) -> dict[str, Any]:
    return {
        "kind": "finetune", "name": "tuned", "output": str(place),
        "data": {"examples": f"{place}/reviews.jsonl", "validation_fraction": 0.3, "columns": {"text": "review", "label": "stars"}},
        "model": {"source": f"{place}/bert"}, "task": {"name": "classification"},
        "optimizer": {"lr": 5e-3, "precision": "fp32"}, "batch": {"samples": 8}, "stop": {"steps": 40},
        "evaluate": {"every_steps": 10}, "checkpoint": {"every_steps": 10, "keep": 1},
        "early_stop": {"figure": "score", "mode": "max", "patience": 9},
        "resources": {"workers": 2, "micro_batch": 2}, **given,
    }  # fmt: skip


def test_two_workers_learn_what_the_evaluate_stage_then_measures(place: Path, ray_session: None) -> None:
    done = made(finetune(place))
    lines = [line for line in read(done.folder) if line["kind"] == "validation"]
    report = json.loads(done.folder.read_text("work/rows/report.json"))
    assert [line["rows"] for line in lines] == [report["validation"]["rows"]] * 4
    assert done.metrics["validation_score"] == lines[-1]["score"] > 90.0
    assert done.metrics["best_score"] == max(line["score"] for line in lines)
    assert "validation_perplexity" not in done.metrics
    config = json.loads(done.folder.read_text("model/config.json"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["label2id"] == {"negative": 0, "positive": 1}

    data = finetune(place)["data"]
    judged = made(
        {
            "kind": "evaluate", "name": "scores", "output": str(place), "model": {"source": "tuned"}, "data": data,
            "evaluate": {
                "engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": {"name": "classification"},
                "task_samples": 1000,
            },
        }
    )  # fmt: skip
    # What is exported are the weights of the best validation.
    assert judged.metrics["score"] == pytest.approx(done.metrics["best_score"])
    scores = json.loads(judged.folder.read_text("scores.json"))
    assert scores["figures"]["task_samples"] == report["validation"]["rows"] == len(scores["examples"])
    low, high = scores["intervals"]["score"]
    assert low <= judged.metrics["score"] <= high
    assert scores["task"]["labels"] == ["negative", "positive"]
    for row in scores["examples"]:
        assert sum(row["confidence"]) == pytest.approx(1, abs=1e-4)
        assert row["score"] == 100.0 * (row["prediction"] == row["reference"])
        assert row["prediction"] == scores["task"]["labels"][max((0, 1), key=row["confidence"].__getitem__)]


def test_a_score_that_is_not_measured_or_is_to_fall_is_refused(place: Path) -> None:
    with pytest.raises(
        InputError, match=r"early_stop\.mode = 'min' would keep .* lowest score.*set early_stop\.mode=max"
    ):
        made(finetune(place, name="low", early_stop={"figure": "score"}))
    with pytest.raises(
        InputError, match=r"'perplexity' is not measured .* choose one of loss, score, accuracy, macro_f1"
    ):
        made(finetune(place, name="none", early_stop={"figure": "perplexity"}))


def test_a_model_of_another_kind_is_refused_before_anything_starts(place: Path) -> None:
    (place / "gpt").mkdir()
    (place / "gpt/config.json").write_text('{"model_type": "llama"}')
    (place / "tags.jsonl").write_text("".join(json.dumps(example) + "\n" for example in labelled.ENTITIES))
    raw = finetune(place, name="tagged", model={"source": f"{place}/gpt"}, task={"name": "tagging"})
    with pytest.raises(InputError, match=r"is of type 'llama', a decoder, and task\.name = 'tagging'"):
        made({**raw, "data": {"examples": f"{place}/tags.jsonl", "validation_fraction": 0.4}})
