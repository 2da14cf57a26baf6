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


@pytest.fixture(scope="session")
def speaker(place: Path) -> Path:
    """A teacher that answers "3?" by "three.", through its chat template, and ends there."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from manta.tasks.encoding.conversation import encode, stop_at_end

    folder = school.llama(place / "speaker", place / "shards", 2, seed=3, hidden_size=64)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder)
    spoken = [encode(talk(f"{number}?", name), tokenizer) for number, name in enumerate(NAMES)]
    width = max(len(ids) for ids, _ in spoken)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in spoken])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in spoken])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05, "it has learnt nothing"
    model.save_pretrained(folder)
    stop_at_end(folder)
    return folder


NAMES = ("none.", "one.", "two.", "three.", "four.", "five.", "six.", "seven.")


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


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
