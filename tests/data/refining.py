"""What tests of steps share: small corpora from texts, cleaned by a recipe's steps in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from manta import recipe as recipes
from manta.data import dedup, refine, shards, work
from manta.data.corpus import Context, Corpus, gather
from manta.data.refine import Refined
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.storage import Folder


def one_by_one(function: Callable[[Any], Any], items: Iterable[Any], at_once: int) -> Iterator[Any]:
    """Tasks one after the other, the last first, with what JSON leaves of their items and results."""
    for item in reversed(list(items)):
        yield json.loads(json.dumps(function(json.loads(json.dumps(item)))))


def recipe(output: Path, sources: str, steps: list[dict[str, Any]], **data: Any) -> PrepareRecipe:
    """A recipe over files of JSON lines; its result goes to `output`/shards."""
    listed = [{"path": sources, "format": "jsonl"}]
    raw = {
        "kind": "prepare",
        "name": "shards",
        "output": str(output),
        "data": {"sources": listed, "steps": steps, **data},
    }
    made = recipes.validate(raw)
    assert isinstance(made, PrepareRecipe)
    return made


def refined(tmp_path: Path, texts: list[str], steps: list[dict[str, Any]], each: int = 100, **data: Any) -> Refined:
    """The texts, `each` in a file and about as many in a part, after normalise and the steps."""
    folder = tmp_path / "texts"
    folder.mkdir(parents=True)
    for start in range(0, len(texts), each):
        rows = (json.dumps({"text": text}) + "\n" for text in texts[start : start + each])
        (folder / f"{start:03}.jsonl").write_text("".join(rows))
    made = recipe(tmp_path, f"{folder}/*.jsonl", [{"step": "normalise"}, *steps], **data)
    return refine.refine(made, Folder(tmp_path / "shards"), 1, Progress(quiet=True))


def texts_of(tmp_path: Path, found: Refined) -> list[str]:
    """What is left of the texts."""
    return list(found.corpus.texts(Folder(tmp_path / "shards"), found.corpus.kept.tolist()))


def stored(folder: Folder, texts: list[str], cuts: Sequence[int]) -> Corpus:
    """The texts (d0, d1, ...) as cleaned parts, a new one beginning at each of `cuts`."""
    paths = []
    for start, end in zip([0, *cuts], [*cuts, len(texts)], strict=True):
        rows = [(f"d{n}", "source", "", texts[n], dedup.digest(texts[n]), len(texts[n])) for n in range(start, end)]
        paths.append(f"work/cleaned/0-{start:05}-000.parquet")
        shards.write_table(folder, paths[-1], work._cleaned_table(rows))
    return gather(folder, paths)


def context(folder: Folder, step: str) -> Context:
    """Where a step on the whole corpus works."""
    return Context(folder, f"0-{step}", 1, "start", Progress(quiet=True))
