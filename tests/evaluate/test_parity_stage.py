"""Parity as a part of the evaluate stage: with real vLLM, with copies of a model, and what is refused beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.artifact import Draft
from manta.errors import GateRefused, InputError
from manta.evaluate import measure, run
from manta.evaluate.parity import stage as parity
from manta.progress import Progress
from manta.schema import EvaluateRecipe
from manta.storage import Folder
from serving import launch
from tests.evaluate.parity_models import CHATS, of_family, recipe_of


def raw_recipe(output: Path, source: Path, name: str, **evaluate: Any) -> dict[str, Any]:
    settings = {"parity": True, "dtype": "float32", "perplexity_rows": 0, **evaluate}
    return {
        "kind": "evaluate", "name": name, "output": str(output), "model": {"source": str(source)}, "data": {},
        "evaluate": settings, "resources": {"cpus": 2},
    }  # fmt: skip


def evaluated(raw: dict[str, Any]) -> stage.Outcome:
    return stage.run(recipes.validate(raw), Progress(quiet=True))  # type: ignore[arg-type]


def test_a_gate_that_nothing_feeds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gate\.parity = 0\.1 is not measured"):
        run.check(recipe_of(tmp_path, "evaluate.parity=false", "gate.parity=0.1"), {})


def test_parity_alone_is_an_evaluation(tmp_path: Path) -> None:
    run.check(recipe_of(tmp_path), {})
    with pytest.raises(InputError, match="nothing to evaluate"):
        run.check(recipe_of(tmp_path, "evaluate.parity=false"), {})


def test_a_refused_model_is_refused_each_time_and_not_served(tmp_path: Path) -> None:
    llama = of_family("llama", tmp_path / "llama")
    (llama / "generation_config.json").write_text('{"eos_token_id": 0}')
    recipe = recipes.validate(raw_recipe(tmp_path / "runs", llama, "scores", engine="transformers"))
    assert isinstance(recipe, EvaluateRecipe)
    source = artifacts.resolve_inputs(recipe)["model.source"]
    measured = Folder(tmp_path / "runs" / "scores")
    with artifacts.draft(recipe, {"model.source": source}, None, False) as draft:
        assert isinstance(draft, Draft)
        parity.measure(recipe, source, {}, measured, Listening())
    for _ in range(2):
        with pytest.raises(GateRefused, match="generation stops at") as refused:
            stage.run(recipe, Progress(quiet=True))
        assert refused.value.exit_code == 4
    serve = {"kind": "serve", "name": "s", "output": str(tmp_path / "runs"), "serve": {"port": 0}}
    serve["model"] = {"source": str(llama), "evaluation": "scores"}
    with pytest.raises(GateRefused, match="parity False"):
        launch.prepare(recipes.validate(serve))  # type: ignore[arg-type]


class Listening:
    """A mailbox of Ray that nobody reads."""

    put = SimpleNamespace(remote=lambda message: None)


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session")
class TestStage:
    def test_vllm_reads_and_believes_what_was_trained(self, tmp_path: Path) -> None:
        llama = of_family("llama", tmp_path / "llama")
        raw = raw_recipe(tmp_path / "runs", llama, "scores", engine="vllm")
        made = evaluated(raw).artifact
        assert made.metrics["passed"] is True
        assert made.metrics["parity"] is True
        assert made.metrics["parity_vllm_transformers"] < 1e-3
        report = json.loads(made.folder.read_text("parity.json"))
        assert report["missed"] == []
        assert all("vllm_transformers" in probe["distance"] for probe in report["probes"])
        assert json.loads(made.folder.read_text("scores.json"))["figures"]["parity"] is True

    def test_several_workers_score_what_one_process_scores(self, tmp_path: Path) -> None:
        llama = of_family("llama", tmp_path / "llama")
        examples = tmp_path / "chats.jsonl"
        examples.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
        task = {"parity": False, "engine": "transformers", "task": {"name": "chat", "max_tokens": 6}}
        raw = raw_recipe(tmp_path / "runs", llama, "scores", **task)
        raw["data"] = {"examples": str(examples), "validation_fraction": 1.0}
        alone = recipes.validate(raw)
        raw["resources"]["workers"] = 2
        made = evaluated(raw).artifact
        assert isinstance(alone, EvaluateRecipe)
        inputs = artifacts.resolve_inputs(alone)
        assert recipes.identity(alone, {}) == recipes.identity(recipes.validate(raw), {})  # type: ignore[arg-type]
        one = measure._measure(alone, llama, inputs, lambda _: None, inputs["model.source"])
        several = json.loads(made.folder.read_text("scores.json"))["examples"]
        assert len(several) == len(CHATS)
        assert [row["prediction"] for row in several] == one["predictions"]
        assert [row["reference"] for row in several] == one["references"]
