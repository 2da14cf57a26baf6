"""Augmentation within the stage: variants are marked, stay out of every evaluation split, and are made only once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.data import dedup, enlarge, prepare, shards
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.storage import Folder
from tests.data.prose import paragraphs

AUGMENT = [
    {"augment": "characters", "share": 0.5, "rate": 0.2},
    {"augment": "words", "share": 0.3, "copies": 2},
    {"augment": "concatenate", "share": 0.2},
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        rows = (json.dumps({"text": "\n".join(paragraphs("en", 1000 * number + n))}) for n in range(60))
        (folder / f"{number}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def make(corpus: Path, **data: Any) -> PrepareRecipe:
    raw = {
        "kind": "prepare",
        "name": "shards",
        "output": str(corpus.parent / "runs"),
        "data": {
            "sources": [{"path": f"{corpus}/*.jsonl", "format": "jsonl"}],
            "steps": [{"step": "exact_dedup"}],
            "validation_fraction": 0.3,
            "seq_len": 32,
            "shard_tokens": 4000,
            "augment": AUGMENT,
            **data,
        },
        "tokenizer": {"vocab_size": 700},
    }
    made = recipes.validate(raw)
    assert isinstance(made, PrepareRecipe)
    return made


def run(recipe: PrepareRecipe) -> artifacts.Artifact:
    return stage.run(recipe, Progress(quiet=True), replace=True).artifact


def documents(made: artifacts.Artifact) -> list[dict[str, Any]]:
    names = sorted(name for name in made.folder.files() if name.startswith("documents/"))
    return [row for name in names for row in shards.read_table(made.folder, name).to_pylist()]


@pytest.fixture
def in_process(without_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.cluster, "connect", lambda *_: None)
    monkeypatch.setattr(prepare.cluster, "is_local", lambda: True)


def test_variants_are_marked_counted_and_only_trained_on(in_process: None, corpus: Path) -> None:
    made = run(make(corpus))
    rows = documents(made)
    kinds = Counter(row["augmented"] for row in rows)
    assert set(kinds) == {"", "characters", "words", "concatenate"}
    assert {kind: count for kind, count in kinds.items() if kind} == made.metrics["augmented"]
    assert {row["split"] for row in rows if row["augmented"]} == {"train"}
    held_out = {row["id"] for row in rows if row["split"] == "validation"}
    assert len(held_out) > 30
    for row in rows:
        if row["augmented"]:
            source, _, mark = row["id"].rpartition("+")
            assert mark.startswith(f"{row['augmented']}-")
            assert source not in held_out
    page = made.folder.read_text("report.html")
    for kind, count in made.metrics["augmented"].items():
        assert f">{kind}</text>" in page and f">{count:,} (" in page and f"<p>{kind}</p><pre>" in page
    digests = [dedup.digest(row["text"]) for row in rows]
    assert len(set(digests)) == len(digests)
    train = [row for row in rows if row["split"] == "train" and not row["augmented"]]
    assert 0.35 < kinds["characters"] / len(train) < 0.65
    assert sum(made.metrics["sources"][source]["kept"] for source in made.metrics["sources"]) == len(train) + len(
        held_out
    )


def test_documents_tokenizer_and_validation_are_those_without_augmentation(in_process: None, corpus: Path) -> None:
    plain, larger = run(make(corpus, augment=[])), None
    kept = [(row["id"], row["text"], row["split"]) for row in documents(plain)]
    files = {name: plain.folder.read_text(name) for name in ("tokenizer/tokenizer.json", "tokenizer/report.json")}
    source = plain.manifest["inputs"]["documents"]
    larger = run(make(corpus))
    assert [(row["id"], row["text"], row["split"]) for row in documents(larger) if not row["augmented"]] == kept
    assert {name: larger.folder.read_text(name) for name in files} == files
    assert larger.manifest["inputs"]["documents"] == source, "what was read is the same"
    assert larger.fingerprint != plain.fingerprint


def test_units_do_not_change_what_is_made_and_finished_ones_are_not_made_again(
    in_process: None, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(corpus, augment=AUGMENT[:2])
    whole = sorted((row["id"], row["text"]) for row in documents(run(recipe)))
    monkeypatch.setattr(enlarge, "UNIT_CHARS", 3000)
    calls: list[int] = []
    vary = enlarge.vary

    def counted(item: dict[str, Any]) -> dict[str, Any]:
        calls.append(item["number"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return vary(item)

    monkeypatch.setattr(enlarge, "vary", counted)
    Folder(recipe.output).clear("shards")
    with pytest.raises(KeyboardInterrupt):
        stage.run(recipe, Progress(quiet=True))
    made = stage.run(recipe, Progress(quiet=True)).artifact
    assert sorted((row["id"], row["text"]) for row in documents(made)) == whole
    assert len(calls) == len(set(calls)) + 1 > 6, "only the one that broke off was begun twice"


def test_a_dictionary_is_an_input_whose_content_counts(in_process: None, corpus: Path) -> None:
    words = corpus.parent / "words.tsv"
    words.write_text("the\tthis\n")
    recipe = make(corpus, augment=[{"augment": "synonyms", "path": str(words), "share": 1.0, "rate": 1.0}])
    first = stage.run(recipe, Progress(quiet=True)).artifact
    assert "data.augment.0.path" in first.manifest["inputs"]
    assert first.metrics["augmented"]["synonyms"] > 50
    assert stage.run(recipe, Progress(quiet=True)).skipped
    words.write_text("the\tthat\n")
    again = stage.run(recipe, Progress(quiet=True))
    assert not again.skipped and again.artifact.fingerprint != first.fingerprint


def test_contradictions_are_found_before_anything_runs(corpus: Path) -> None:
    found = [p.path for p in prepare.problems(make(corpus, augment=[{"augment": "rewrite", "prompt": "Write."}]))]
    assert found == ["data.augment.0.model", "data.augment.0.prompt"]
