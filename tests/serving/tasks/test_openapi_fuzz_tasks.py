"""A fuzz of the task routes by their OpenAPI page, against real encoders: no 500, and nothing that the page does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.tasks.app import TaskApp
from tests.serving import talker
from tests.serving.fake_engine import KEY, hashed, launch, served
from tests.serving.fuzz import fuzz
from tests.serving.tasks import tiny


class Encoders:
    """A real model of each task, as its replica has it: asked by the name of the task."""

    def __init__(self, folder: Path) -> None:
        self.apps = {task: TaskApp(task, [task], tiny.app(tiny.bert(folder / task, head), task).model) for task, head in tiny.HEADS.items()}  # fmt: skip

    async def alive(self) -> bool:
        return True

    async def generate_once(self) -> None:
        for app in self.apps.values():
            await app.probe()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = scope["state"]["model"] if "model" in scope.get("state", {}) else "fill-mask"
        await self.apps[name](scope, receive, send)


@pytest.mark.timeout(240)
def test_no_request_breaks_an_encoder(tmp_path: Path) -> None:
    models = [served(name=task, tasks=(task,), runner="transformers", longest=64, mask_token="[MASK]", max_ongoing_requests=64) for task in tiny.HEADS]  # fmt: skip
    made = launch(served=tuple(models), key_hashes=hashed(KEY), max_body_bytes=100_000)
    with talker.listening(Encoders(tmp_path), made) as url:
        found = fuzz(url, KEY, tmp_path, "--max-examples", "12", "--max-time", "25")
    print(found.requests, found.rates)  # shown when a bound below is missed
    assert found.wrong == [], found.told[-8000:]
    answered = {name for name, (good, _) in found.rates.items() if good}
    assert {"POST /v1/embeddings", *(f"POST /v1/tasks/{task}" for task in tiny.HEADS)} <= answered
