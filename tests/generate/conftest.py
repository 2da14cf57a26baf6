"""Teachers that write in this process, without Ray: what parts they were asked for is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manta import recipe as recipes
from manta import stage
from manta.artifact import Artifact
from manta.generate import writing
from manta.progress import Progress
from manta.schema import GenerateRecipe
from tests.train import school


class _Mailbox:
    """Takes what a teacher reports."""

    @property
    def put(self) -> Any:
        return self

    def remote(self, message: dict[str, Any]) -> None:
        assert message["update"]["done"] <= message["update"]["total"]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts are written here, by one copy; the numbers of those that were asked for."""
    asked: list[int] = []

    def ask(recipe: Any, source: Any, some: Any, total: int, folder: Any, progress: Any) -> None:
        del progress
        longest = max(len(each.ids) + each.limit for _, part in some for each in part)
        teacher = writing.Teacher(recipe, source, longest, folder, total, _Mailbox())
        for part in some:
            asked.append(part[0])
            teacher([part])

    monkeypatch.setattr(writing, "_ask", ask)
    return asked


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 64 rows to train on, many more, and a teacher that has learnt from those."""
    folder = tmp_path_factory.mktemp("school")
    school.shards(folder, train=64)
    many = school.shards(folder, train=school.MANY, name="many")
    school.llama(folder / "teacher", many, 3, seed=1, steps=400)
    return folder


Make = Callable[..., Artifact]


@pytest.fixture
def make(place: Path, output: str) -> Make:
    def made(name: str, **given: Any) -> Artifact:
        return stage.run(recipe_of(place, output, name=name, **given), Progress(quiet=True)).artifact

    return made


def recipe_of(place: Path, output: str, **given: Any) -> GenerateRecipe:
    """Continues the rows of `shards` in Transformers, or as `given` says."""
    settings = {"engine": "transformers", "dtype": "float32", **given.pop("generate", {})}
    raw = {
        "kind": "generate", "name": "written", "output": output, "model": {"source": str(place / "teacher")},
        "data": {"shards": str(place / "shards")}, "generate": settings, **given,
    }  # fmt: skip
    made = recipes.validate(raw)
    assert isinstance(made, GenerateRecipe)
    return made
