"""Runs of one sweep share the rows of their task: written once by whoever comes first, apart where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.tasks.encoding import rows
from manta.train import preparing
from manta.train.marks import Marks


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where rows are written, in order; an index is all that they leave."""
    places: list[str] = []

    def write(recipe: Any, inputs: Any, model: Path, folder: Folder, progress: Progress) -> None:
        places.append(folder.url)
        folder.write_text("shards.json", "{}")

    monkeypatch.setattr(rows, "write", write)
    return places


def finetune(name: str, content: str = "a", **changes: Any) -> tuple[FinetuneRecipe, dict[str, Resolved]]:
    raw = {
        "kind": "finetune",
        "name": name,
        "data": {"examples": "/x.jsonl"},
        "model": {"source": "/m"},
        "task": {"name": "chat", "max_tokens": 64},
        "batch": {"samples": 4},
        "stop": {"steps": 3},
    }
    for path, value in changes.items():
        recipes.set_path(raw, path.replace("__", "."), value)
    made = recipes.validate(raw)
    assert isinstance(made, FinetuneRecipe)
    return made, {"data.examples": Resolved("data.examples", "/x.jsonl", "file", "/x.jsonl", content, content)}


def test_rows_are_written_once_for_all_that_share_them(tmp_path: Path, written: list[str], silent: Progress) -> None:
    shared = Marks((), None, "000", f"{tmp_path}/work/rows")

    def place(name: str, marks: Marks | None, content: str = "a", **changes: Any) -> str:
        recipe, inputs = finetune(name, content, **changes)
        draft = Draft(Folder(tmp_path / name), {}, inputs, resumed=False)
        return preparing.task_rows(recipe, draft, str(tmp_path), silent, marks)

    first = place("000", shared)
    assert first.startswith(f"{tmp_path}/work/rows/")
    assert place("001", shared, optimizer__lr=0.5, seed=3, batch__samples=2, adapt__method="lora") == first
    assert len(written) == 1
    assert place("002", shared, task__max_tokens=32) != first
    assert place("003", shared, content="b") != first
    assert len(written) == 3
    assert place("004", None) == f"{tmp_path}/004/work/rows", "a run of its own keeps its rows to itself"
