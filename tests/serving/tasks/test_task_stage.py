"""The serve stage of an encoder, and two of them with replicas of their own behind one door: real endpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from manta import recipe as recipes
from manta import stage
from serving import deploy
from tests.serving.fake_engine import bearer
from tests.serving.tasks import tiny
from tests.serving.tasks.tiny import recipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_the_serve_stage_asks_a_question_of_the_task(ray_session: Any, output: str, silent: Any) -> None:
    model = tiny.bert(Path(output) / "model", "BertModel")
    outcome = stage.run(recipe(output, "vectors", model, smoke=["a good film"]), silent)
    [entry] = json.loads((Path(output) / "vectors/transcript.json").read_text())
    assert (entry["question"], entry["task"], len(entry["answer"])) == ("a good film", "feature-extraction", 32)
    assert entry["fingerprint"] == outcome.artifact.manifest["inputs"]["model.source"]["fingerprint"]
    assert "first_token_ms" not in outcome.artifact.metrics


def test_several_models_answer_behind_one_door(ray_session: Any, tmp_path: Path, silent: Any) -> None:
    """Replicas of their own behind a Front: whoever answers the task is asked, and what it used is counted."""
    import openai

    folders = {"vectors": tiny.bert(tmp_path / "v", "BertModel"), "gaps": tiny.bert(tmp_path / "g", "BertForMaskedLM")}
    made = recipes.resolved(recipe(tmp_path, "both", folders["gaps"], tokens_per_minute=100_000))
    made |= {"model": None, "models": {name: {"source": str(folder)} for name, folder in folders.items()}}
    with (
        deploy.endpoint(recipes.validate(made), silent, own_key=True) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client,
    ):
        told = client.embeddings.create(model="vectors", input=tiny.TEXTS)
        assert [len(one.embedding) for one in told.data] == [32] * len(tiny.TEXTS)
        alone = client.embeddings.create(model="vectors", input=tiny.TEXTS[1], encoding_format="float")
        assert told.data[1].embedding == pytest.approx(alone.data[0].embedding, abs=1e-5)
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="vectors", input="a", dimensions=7)
        with httpx.Client(base_url=running.url, headers=bearer(str(running.key)), timeout=60) as plain:
            filled = plain.post("/v1/tasks/fill-mask", json={"inputs": "a [MASK] film", "parameters": {"top_k": 2}})
            assert [set(one) for one in filled.json()] == [{"score", "token", "token_str", "sequence"}] * 2
            refused = plain.post("/v1/tasks/fill-mask", json={"inputs": "no gap"})
            listed = plain.get("/v1/tasks").json()["data"]
            metrics = plain.get("/metrics").text
    assert filled.headers["x-manta-fingerprint"] == running.launch.served[1].fingerprint
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "inputs")
    assert {one["id"]: one["models"] for one in listed} == {"fill-mask": ["gaps"], "feature-extraction": ["vectors"]}
    samples = [sample for each in text_string_to_metric_families(metrics) for sample in each.samples]
    used = {one.labels["model"]: one.value for one in samples if one.name == "manta_prompt_tokens_total"}
    assert used["vectors"] == told.usage.prompt_tokens + alone.usage.prompt_tokens
    assert used["gaps"] > 0
