"""Held-out texts in training data: documents that quote them are dropped, all others stay."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manta.data import shards
from manta.data.cleaning import decontaminate
from manta.data.refine import Refined
from manta.errors import InputError
from manta.storage import Folder
from tests.data import refining
from tests.data.refining import texts_of

QUESTION = "Which of the seven planets known to Kepler moves so slowly that a year there lasts twenty nine of ours?"
FRAGE = "".join(chr(0x4E00 + 37 * number % 2000) for number in range(60)) + "?这是什么?"
WORDS = QUESTION.rstrip("?").split()
# name -> (document, whether it is dropped)
PLANTED = {
    "quoted": (f"A quiz. {QUESTION} Saturn, of course.", True),
    "in other dress": (f"A QUIZ: {', '.join(WORDS[:13]).upper()} and so on", True),
    "13 words": (" ".join(["before", *WORDS[4:17], "after"]), True),
    "12 words": (" ".join(["before", *WORDS[4:16], "after"]), False),
    "13 words, one changed": (" ".join([*WORDS[:6], "planet", *WORDS[7:13]]), False),
    "other order": (" ".join(reversed(WORDS)), False),
    "Chinese, quoted": (f"问题:{FRAGE} 答案不知道。", True),
    "52 characters": ("前" + FRAGE[5:57] + "后", True),
    "51 characters": ("前" + FRAGE[5:56] + "后", False),
    "52 characters in English prose": (f"The question was {FRAGE[:52]} and nobody could answer. " * 2, True),
    "apart": ("Nothing in here was ever asked in any examination that we have heard of so far.", False),
}


pytestmark = pytest.mark.usefixtures("without_ray")


def refined(tmp_path: Path, heldout: Path, texts: list[str], *steps: dict[str, Any]) -> Refined:
    return refining.refined(tmp_path, texts, list(steps) or [{"step": "decontaminate"}], heldout=str(heldout))


def questions(place: Path) -> Path:
    rows = [{"id": 1, "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Saturn"}]}]
    place.write_text("".join(json.dumps(row) + "\n\n" for row in [*rows, {"question": FRAGE, "answer": None}]))
    return place


def test_documents_that_share_an_n_gram_are_dropped_with_their_reason(tmp_path: Path) -> None:
    found = refined(tmp_path, questions(tmp_path / "eval.jsonl"), [text for text, _ in PLANTED.values()])
    assert found.figures["dropped"] == {"decontaminate.ngram": sum(dropped for _, dropped in PLANTED.values())}
    assert texts_of(tmp_path, found) == [text.strip() for text, dropped in PLANTED.values() if not dropped]


def test_heldout_texts_come_from_files_of_several_formats(tmp_path: Path) -> None:
    jsonl = questions(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl.read_bytes()))
    (tmp_path / "c.txt").write_text(QUESTION + "\n")
    table = pa.table({"number": [1, 2], "text": [QUESTION, FRAGE], "choices": [["no", QUESTION], []]})
    shards.write_table(Folder(tmp_path), "d.parquet", table)
    for name, texts in (
        ("a.jsonl", ["user", QUESTION, "assistant", "Saturn", FRAGE]),
        ("b.jsonl.gz", ["user", QUESTION, "assistant", "Saturn", FRAGE]),
        ("c.txt", [QUESTION + "\n"]),
        ("d.parquet", [QUESTION, "no", QUESTION, FRAGE]),
    ):
        assert list(decontaminate.texts(Folder(tmp_path / name))) == texts, name


def test_of_an_artifact_only_what_is_held_out_counts(tmp_path: Path) -> None:
    artifact = Folder(tmp_path / "evals")
    for name, columns in (
        ("documents/validation-00000.parquet", {"id": ["a"], "source": [WORDS[0] * 20], "text": [QUESTION]}),
        ("documents/train-00000.parquet", {"id": ["b"], "source": ["s"], "text": [PLANTED["apart"][0]]}),
        ("examples/validation.parquet", {"input": [FRAGE], "target": ["?"]}),
        ("examples/train.parquet", {"input": [PLANTED["other order"][0]], "target": ["?"]}),
    ):
        shards.write_table(artifact, name, pa.table(columns))
    assert list(decontaminate.texts(artifact)) == [QUESTION, FRAGE, "?"]
    # A bare name is a sibling.
    found = refined(tmp_path, Path("evals"), [text for text, _ in PLANTED.values()])
    assert found.corpus.num_kept == sum(not dropped for _, dropped in PLANTED.values())


def test_the_n_gram_is_the_settings(tmp_path: Path) -> None:
    texts = [PLANTED[name][0] for name in ("12 words", "51 characters", "apart")]
    heldout = questions(tmp_path / "eval.jsonl")
    for ngram, left in ((13, 3), (12, 1), (40, 3)):
        place = tmp_path / str(ngram)
        place.mkdir()
        if ngram == 40:
            with pytest.raises(InputError, match="as long as the n-gram"):
                refined(place, heldout, texts, {"step": "decontaminate", "ngram": ngram})
        else:
            found = refined(place, heldout, texts, {"step": "decontaminate", "ngram": ngram})
            assert found.corpus.num_kept == left


def test_it_is_a_step_among_others(tmp_path: Path) -> None:
    texts = [PLANTED["quoted"][0], PLANTED["quoted"][0], "short", PLANTED["apart"][0]]
    found = refined(
        tmp_path,
        questions(tmp_path / "eval.jsonl"),
        texts,
        {"step": "length", "min_chars": 20},
        {"step": "exact_dedup"},
        {"step": "decontaminate"},
    )
    assert found.figures["dropped"] == {"length.min_chars": 1, "exact_dedup": 1, "decontaminate.ngram": 1}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{broken\n', "line 2"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "cannot be read"),
        ("a.parquet", b"no such thing", "cannot be read"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
        ("a.txt", b"", "none of the 1 texts"),
    ],
)
def test_heldout_texts_that_cannot_be_looked_for_are_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as refused:
        refined(tmp_path, tmp_path / name, ["any text"])
    assert "data.heldout" in str(refused.value)
