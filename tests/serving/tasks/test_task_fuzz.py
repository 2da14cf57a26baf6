"""Requests of all shapes to each task: an answer, or a refusal with its reason; never a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.tasks import TASKS
from serving.tasks.app import TaskApp
from tests.serving.tasks import tiny
from tests.tasks import paired

PLAIN = st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=20)
ANY = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)
TEXTS = st.text(max_size=40) | st.sampled_from(["a [MASK] film", "[MASK] [MASK]", "cake " * 70, *tiny.TEXTS])
OBJECTS = st.dictionaries(st.sampled_from(["text", "text_pair", "question", "context"]), TEXTS | ANY, max_size=3)
INPUTS = TEXTS | OBJECTS | st.lists(TEXTS | OBJECTS, max_size=4) | ANY
VALUES = st.sampled_from(["first", "max", "none", "sigmoid", True, 1, 2, 8, 80]) | ANY


@pytest.fixture(scope="module", params=[*tiny.HEADS, "summarization"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TaskApp:
    folder: Path = tmp_path_factory.mktemp("m") / "model"
    if request.param == "summarization":
        return tiny.app(paired.t5(folder), request.param)
    return tiny.app(tiny.bert(folder, tiny.HEADS[request.param]), request.param)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_no_request_breaks_a_task(app: TaskApp, data: st.DataObject) -> None:
    [task] = app.tasks
    names = [*TASKS[task].Parameters.model_fields, "other"]
    parameters = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=3) | ANY)
    if task == "summarization" and isinstance(parameters, dict):
        parameters["max_new_tokens"] = 1  # what is written takes time
    body = data.draw(st.just({"inputs": data.draw(INPUTS), "parameters": parameters}) | ANY)
    answer = tiny.post(app, task, body)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]
    else:
        json.loads(answer.text, parse_constant=pytest.fail)  # no NaN: that is no JSON


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(
        st.sampled_from(["input", "model", "dimensions", "encoding_format", "user"]), INPUTS, max_size=4
    )
    | ANY
)
def test_no_request_breaks_embeddings(vectors: TaskApp, body: Any) -> None:
    answer = tiny.talk(vectors, lambda client: client.post("/v1/embeddings", content=json.dumps(body)))
    assert answer.status_code in (200, 400), answer.text


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> TaskApp:
    return tiny.app(tiny.bert(tmp_path_factory.mktemp("m") / "model", "BertModel"), "feature-extraction")
