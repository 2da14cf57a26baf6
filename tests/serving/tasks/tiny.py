"""Tiny models of each task with weights that tell inputs apart, as `serving.tasks` opens them, and a client of their routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema

from manta import recipe as recipes
from manta.tasks.labels import store_input_names
from serving.tasks.app import TaskApp
from serving.tasks.described import TASK_SHAPES
from serving.tasks.model import Model
from tests.tasks import labelled

LABELS = {"id2label": {0: "negative", 1: "positive", 2: "none"}, "label2id": {"negative": 0, "positive": 1, "none": 2}}
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TAGGED = {"id2label": dict(enumerate(TAGS)), "label2id": {name: place for place, name in enumerate(TAGS)}}
SPREAD = 0.5  # of the weights: with Transformers' own 0.02 all answers are alike
TEXTS = [
    "a good film , really",
    "anna lives in new york",
    "cake",
    "the match was long , the vote was close , and anna lives in paris",
]
# Hugging Face's tasks of a BERT, and the classes that answer them.
HEADS = {
    "text-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "fill-mask": "BertForMaskedLM",
    "question-answering": "BertForQuestionAnswering",
    "feature-extraction": "BertModel",
}


def bert(folder: Path, head: str, **given: Any) -> Path:
    """A Hugging Face directory of a tiny BERT, as fine-tuning leaves it."""
    labelled.bert(folder, head, initializer_range=SPREAD, **given)
    store_input_names(folder)
    return folder


def app(folder: Path, *tasks: str, **given: Any) -> TaskApp:
    return TaskApp("tiny", tasks, Model(folder, **given))


def talk(made: TaskApp, story: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Run `story` with a client of the routes."""

    async def play() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://test") as client:
            return await story(client)

    return asyncio.run(play())


def ask(made: TaskApp, task: str, inputs: Any, **parameters: Any) -> Any:
    """The answer to one request. Both are as the endpoint's OpenAPI page says."""
    body = {"inputs": inputs, "parameters": parameters}
    answer = post(made, task, body)
    assert answer.status_code == 200, answer.text
    for part, shape in zip((body, answer.json()), TASK_SHAPES[task], strict=True):
        jsonschema.validate(part, shape)
    return answer.json()


def refused(made: TaskApp, task: str, inputs: Any, **parameters: Any) -> tuple[str | None, str]:
    """The field and the words of a refusal."""
    answer = post(made, task, {"inputs": inputs, "parameters": parameters})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["param"], error["message"]


def post(made: TaskApp, task: str, body: Any) -> httpx.Response:
    answer: httpx.Response = talk(made, lambda client: client.post(f"/v1/tasks/{task}", content=json.dumps(body)))
    return answer


def recipe(output: Path | str, name: str, model: Path, **serve: Any) -> Any:
    settings = {"port": 0, "dtype": "float32", **serve}
    made = {"kind": "serve", "name": name, "output": str(output), "model": {"source": str(model)}, "serve": settings}
    return recipes.validate(made)
