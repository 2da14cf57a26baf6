"""The whole stage with a real Ray: same bytes however it is spread or interrupted, and clear words for bad input."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import recipe as recipes
from manta import stage
from manta.artifact import Artifact
from manta.data import dedup, prepare, refine, shards, sources, tokenise
from manta.data.spread import spread
from manta.errors import InputError, StageFailed
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.storage import Folder

STEPS = [
    {"step": "normalise"},
    {"step": "length", "min_chars": 150},
    {"step": "letters"},
    {"step": "repeated_lines"},
    {"step": "exact_dedup"},
]


def make(corpus: Path, output: Path, name: str = "shards", **changes: Any) -> PrepareRecipe:
    """A recipe over the corpus's JSONL files and a few of the standard library's modules."""
    raw = {
        "kind": "prepare",
        "name": name,
        "output": str(output),
        "data": {
            "sources": [
                {"path": f"{corpus}/*.jsonl", "format": "jsonl"},
                {"path": "python://stdlib/asyncio/*.py", "format": "docstrings"},
            ],
            "steps": STEPS,
            "validation_fraction": 0.2,
            "seq_len": 64,
            "shard_tokens": 100_000,
            "examples": "docstring_summary",
        },
        "tokenizer": {"vocab_size": 1024},
    }
    for path, value in changes.items():
        recipes.set_path(raw, path.replace("__", "."), value)
    made = recipes.validate(raw)
    assert isinstance(made, PrepareRecipe)
    return made


# --- bad input, without Ray ------------------------------------------------------------------------------------------


def test_settings_that_contradict_each_other_are_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.shard_tokens = 32"):
        prepare.check(make(tiny_corpus, tmp_path, data__shard_tokens=32), {})
    wrong = [{"step": "length", "min_chars": 150, "max_chars": 100}, {"step": "decontaminate"}]
    found = {problem.path for problem in prepare.problems(make(tiny_corpus, tmp_path, data__steps=wrong))}
    assert found == {"data.steps.0.min_chars", "data.heldout"}


def test_layouts_need_a_tokenizer_with_their_special_tokens(tiny_corpus: Path, tmp_path: Path) -> None:
    def found(kind: str, **tokenizer: Any) -> list[str]:
        made = make(tiny_corpus, tmp_path, data__layout={"kind": kind}, tokenizer=tokenizer)
        return [f"{problem.path}: {problem.remedy}" for problem in prepare.problems(made)]

    assert "tokenizer.type=wordpiece" in found("sentence_pairs")[0]
    assert "tokenizer.sentinels=100" in found("denoising", type="unigram")[0]
    assert not found("sentence_pairs", type="wordpiece")
    assert not found("denoising", type="unigram", sentinels=100)
    assert not found("best_fit")


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.vocab_size = 100"):
        make(tiny_corpus, tmp_path, tokenizer__vocab_size=100)


def test_the_inventory_notices_what_a_chat_templates_file_says(tiny_corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    seen = {prepare.inventory(make(tiny_corpus, tmp_path))}
    seen.add(prepare.inventory(make(tiny_corpus, tmp_path, tokenizer={"chat_template": "{{ messages }}"})))
    assert len(seen) == 1, "a template in the recipe is part of the recipe's own identity"
    for text in ("{{ messages[0] }}", "{{ messages[1] }}"):
        file.write_text(text)
        seen.add(prepare.inventory(make(tiny_corpus, tmp_path, tokenizer={"chat_template": str(file)})))
    assert len(seen) == 3


def test_the_inventory_needs_neither_ray_nor_the_files_content(tiny_corpus: Path, tmp_path: Path) -> None:
    first = prepare.inventory(make(tiny_corpus, tmp_path))
    assert first == prepare.inventory(make(tiny_corpus, tmp_path, name="other"))
    with pytest.raises(InputError, match=r"data\.sources\.0\.path"):
        prepare.inventory(make(tmp_path / "nowhere", tmp_path))


# --- with Ray --------------------------------------------------------------------------------------------------------


class Result:
    """A finished artifact with its files at hand."""

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        self.path = Path(artifact.folder.url)
        self.index = shards.load_index(artifact.folder)
        self.metrics = artifact.metrics

    def table(self, pattern: str) -> list[dict[str, Any]]:
        return [
            row
            for path in sorted(self.path.glob(pattern))
            for row in shards.read_table(Folder(path.parent), path.name).to_pylist()
        ]

    def files(self) -> dict[str, bytes]:
        """Every file of the result, by path."""
        names = [
            name
            for name in self.artifact.folder.files()
            if not name.startswith(("work/", "manifest.json", "report.html", "COMPLETE", ".lock"))
        ]
        return {name: (self.path / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def corpus(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared corpus with planted damage, and enough of it for several groups of files."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("a.jsonl", "b.jsonl"):
        shutil.copy(tiny_corpus / name, folder / name)
    with (folder / "b.jsonl").open("ab") as file:
        file.write(b'{broken\n{"text": "short"}\n{"text": "caf\xe9"}\n')
    texts = [json.loads(line)["text"] for line in (tiny_corpus / "a.jsonl").read_text().splitlines()]
    for number in range(5):  # unique by their first word, about 1 MB each: a group of its own
        rows = ({"text": f"Copy {number}.{i} of it. {text}"} for i in range(8) for text in texts)
        (folder / f"c{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def result(corpus: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Result:
    recipe = make(corpus, tmp_path_factory.mktemp("runs"), resources__cpus=2)
    return Result(stage.run(recipe, Progress(quiet=True)).artifact)


@pytest.mark.integration
def test_every_document_is_accounted_for(result: Result, corpus: Path) -> None:
    figures = result.metrics
    assert figures["quarantined"] == 2
    assert figures["duplicates"] == 20
    documents, dropped = result.table("documents/*.parquet"), result.table("dropped/*.parquet")
    assert figures["documents_kept"] == len(documents) == len({row["id"] for row in documents})
    assert figures["documents_read"] == len(documents) + len(dropped)
    assert [row["detail"] for row in dropped if row["detail"] == "short"] == ["short"]
    assert sum(figures["dropped"].values()) == len(dropped)
    by_id = {row["id"]: row["text"] for row in documents}
    for row in dropped:
        if row["reason"] == "exact_dedup":
            assert row["id"].startswith(f"{corpus}/b.jsonl#")
            assert row["detail"] in by_id, "the first one is kept"
    digests = {dedup.digest(row["text"]) for row in documents}
    assert len(digests) == len(documents)


@pytest.mark.integration
def test_what_cannot_be_read_is_set_aside_with_its_place(result: Result, corpus: Path) -> None:
    entries = [json.loads(line) for line in (result.path / "quarantine.jsonl").read_text().splitlines()]
    data = (corpus / "b.jsonl").read_bytes()
    assert [entry["offset"] for entry in entries] == [data.index(b"{broken"), data.index(b'{"text": "caf\xe9')]
    assert {entry["file"] for entry in entries} == {f"{corpus}/b.jsonl"}
    assert [entry["reason"].split(":")[0] for entry in entries] == ["not JSON", "not UTF-8"]


@pytest.mark.integration
def test_the_rows_are_the_documents_in_order_each_opened_and_closed(result: Result) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(result.path / "tokenizer")
    assert len(loaded) == result.index.vocab_size == result.metrics["vocab_size"] == 1024
    assert len(result.index.splits["train"]) > 5, "several tasks packed"
    for split, listed in result.index.splits.items():
        for number, shard in enumerate(listed[:3]):
            assert shard.path == f"{split}/{number:05}.parquet"
            ids = shards.read_rows(result.artifact.folder, shard.path).reshape(-1)
            assert shard.tokens == len(ids)
            texts = [row["text"] for row in result.table(f"documents/{split}-{number:05}.parquet")]
            inner = [loaded(text)["input_ids"] for text in texts]
            expected = [i for ids in inner for i in [loaded.bos_token_id, *ids, loaded.eos_token_id]]
            assert ids.tolist() == expected[: len(ids)]
            places = shards.read_rows(result.artifact.folder, shard.path, "position_ids").reshape(-1)
            starts = np.cumsum([0, *(len(ids) + 2 for ids in inner)])
            rows = np.arange(0, len(ids), result.index.seq_len)
            assert np.flatnonzero(places == 0).tolist() == np.union1d(starts[starts < len(ids)], rows).tolist()
            assert len(expected) - len(ids) < result.index.seq_len
    packed = sum(result.index.tokens(split) for split in result.index.splits)
    assert result.metrics["tokens"] == packed + result.metrics["tokens_left_over"]


@pytest.mark.integration
def test_no_validation_text_is_trained_on(result: Result) -> None:
    documents = result.table("documents/*.parquet")
    by_split = {
        split: {dedup.digest(row["text"]) for row in documents if row["split"] == split} for split in tokenise.SPLITS
    }
    assert min(map(len, by_split.values())) > 100
    assert not by_split["train"] & by_split["validation"]
    held_out = "\n".join(row["text"] for row in documents if row["split"] == "validation")
    train, validation = result.table("examples/train.parquet"), result.table("examples/validation.parquet")
    assert (len(train), len(validation)) == (result.metrics["train_examples"], result.metrics["validation_examples"])
    assert train
    assert validation
    assert all(row["input"] in held_out and row["target"] in held_out for row in validation)
    for side in ("input", "target"):
        assert not {row[side] for row in train} & {row[side] for row in validation}


@pytest.mark.integration
def test_the_manifest_names_the_documents(result: Result) -> None:
    entry = result.artifact.manifest["inputs"]["documents"]
    digests = sorted(dedup.digest(row["text"]) for row in result.table("documents/*.parquet"))
    assert entry["content"] == hashlib.sha256(b"".join(digests)).hexdigest()
    assert entry["kind"] == "documents"
    assert not (result.path / "work" / "cleaned").exists(), "the intermediate files are gone"


@pytest.mark.integration
def test_one_cpu_makes_the_same_bytes_as_two(result: Result, corpus: Path, tmp_path: Path) -> None:
    again = Result(stage.run(make(corpus, tmp_path, resources__cpus=1), Progress(quiet=True)).artifact)
    assert again.files() == result.files()
    assert again.artifact.fingerprint == result.artifact.fingerprint
    assert again.artifact.manifest["content"] == result.artifact.manifest["content"]


@pytest.mark.integration
def test_a_complete_run_is_skipped_until_the_documents_change(result: Result, corpus: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(corpus / "a.jsonl", few)
    recipe = make(few, tmp_path / "runs")
    first = stage.run(recipe, Progress(quiet=True))
    assert stage.run(recipe, Progress(quiet=True)).skipped
    with (few / "a.jsonl").open("a") as file:
        file.write(
            json.dumps(
                {
                    "text": "One more document, long enough to be kept by the rules of this recipe: a hundred and fifty characters are not many, but one sentence alone rarely has them."
                }
            )
            + "\n"
        )
    second = stage.run(recipe, Progress(quiet=True))
    assert not second.skipped
    assert second.artifact.fingerprint != first.artifact.fingerprint
    assert second.artifact.metrics["documents_read"] == first.artifact.metrics["documents_read"] + 1


@pytest.mark.integration
def test_a_tokenizer_can_be_taken_from_another_artifact(result: Result, corpus: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(corpus / "a.jsonl", few)
    recipe = make(few, tmp_path / "runs", tokenizer__source=str(result.path), data__examples="none")
    made = Result(stage.run(recipe, Progress(quiet=True)).artifact)
    assert (made.path / "tokenizer/tokenizer.json").read_bytes() == (
        result.path / "tokenizer/tokenizer.json"
    ).read_bytes()
    assert made.artifact.manifest["inputs"]["tokenizer.source"]["fingerprint"] == result.artifact.fingerprint
    assert not (made.path / "examples").exists()


@pytest.mark.integration
def test_kill_in_the_middle_then_again_redoes_only_what_was_unfinished(
    result: Result, corpus: Path, tmp_path: Path, manta_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(corpus, tmp_path / "runs", resources__cpus=1)
    (tmp_path / "recipe.yaml").write_text(recipes.to_yaml(recipe))
    process = manta_cli.start("prepare", tmp_path / "recipe.yaml")
    folder = tmp_path / "runs" / "shards"
    deadline = time.monotonic() + 180
    while not (markers := list(folder.glob("work/cleaned/*.json"))):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "COMPLETE").exists()
    num_groups = len(sources.grouped(sources.list_files(recipe.data.sources)))
    markers = list(folder.glob("work/cleaned/*.json"))
    asked: list[int] = []

    def watched(function: Any, items: list[Any], at_once: int) -> Any:
        asked.append(len(items))
        return spread(function, items, at_once)

    monkeypatch.setattr(refine, "spread", watched)
    again = Result(stage.run(recipe, Progress(quiet=True)).artifact)
    assert markers
    assert asked[0] <= num_groups - len(markers), "what was finished is not done again"
    assert again.files() == result.files()
    assert again.artifact.fingerprint == result.artifact.fingerprint


@pytest.mark.integration
def test_a_kill_at_the_very_end_still_ends_well(
    result: Result, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "shards"
    shutil.copytree(result.path, copied)
    (copied / "COMPLETE").unlink()
    recipe = make(corpus, tmp_path)
    for room in (refine, tokenise):
        monkeypatch.setattr(room, "spread", lambda *_: pytest.fail("all work was done"))
    again = Result(stage.run(recipe, Progress(quiet=True)).artifact)
    assert again.artifact.fingerprint == result.artifact.fingerprint
    assert again.metrics == result.metrics


@pytest.mark.integration
@pytest.mark.parametrize(
    ("lines", "changes", "says"),
    [
        (b'{"text": "too short"}\n', {}, "length.min_chars 1"),
        (b"{broken\n", {}, "not JSON"),
        (b"\n\n", {}, "hold no text"),
        (
            b'{"text": "%s"}\n' % (b"enough words to stay " * 20),
            {"data__validation_fraction": 1.0},
            "leaves no document to train on",
        ),
        (
            b'{"text": "%s"}\n' % (b"enough words to stay " * 20),
            {"data__seq_len": 4096, "data__shard_tokens": 4096, "data__validation_fraction": 0.0},
            "fill no row",
        ),
    ],
)
def test_a_corpus_that_leaves_nothing_says_why(
    ray_session: None, tmp_path: Path, lines: bytes, changes: dict[str, Any], says: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines)
    only = [{"path": f"{tmp_path}/*.jsonl", "format": "jsonl"}]
    recipe = make(
        tmp_path,
        tmp_path / "runs",
        data__sources=only,
        data__examples="none",
        data__steps=[step for step in STEPS if step["step"] != "repeated_lines"],
        **changes,
    )
    with pytest.raises(InputError, match=says):
        stage.run(recipe, Progress(quiet=True))


@pytest.mark.integration
def test_what_goes_wrong_in_a_task_keeps_its_meaning(ray_session: None) -> None:
    def full(item: dict[str, Any]) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    def broken(item: dict[str, Any]) -> dict[str, Any]:
        return {"never": 1 // item["zero"]}

    with pytest.raises(OSError, match="No space left") as disk:
        list(spread(full, [{}], 1))
    assert disk.value.errno == errno.ENOSPC
    with pytest.raises(StageFailed, match="ZeroDivisionError") as fault:
        list(spread(broken, [{"zero": 0}], 1))
    assert "test_prepare.py" in str(fault.value), "where it happened"
    assert "run the stage again" in str(fault.value)


@pytest.mark.integration
def test_every_item_is_a_task_of_its_own_and_none_is_lost(ray_session: None) -> None:
    def who(item: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.2)
        return {"number": item["number"], "process": os.getpid()}

    found = list(spread(who, [{"number": number} for number in range(8)], 2))
    assert sorted(row["number"] for row in found) == list(range(8))
    assert len({row["process"] for row in found}) > 1, "both CPUs were used"
    assert list(spread(who, [], 2)) == []
