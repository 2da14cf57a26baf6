"""Rows for a model whose vocabulary was trimmed: renumbered where tokens stayed, spelt in pieces where they went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tokenizers import Tokenizer

from manta.data import respell, tokenizer
from manta.data.sample import check_vocabulary
from manta.data.tokenizers import trim
from manta.errors import InputError
from manta.storage import Folder


class Place(NamedTuple):
    shards: Folder
    model: Folder
    kept: list[int]
    rows: list[list[int]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Place:
    """Shards of a tokenizer with 600 tokens, a model whose tokenizer has 400 of them, and rows of both kinds of text."""
    folder = tmp_path_factory.mktemp("respell")
    texts = [json.loads(line)["text"] for line in (tiny_corpus / "a.jsonl").open()]
    (folder / "shards/tokenizer").mkdir(parents=True)
    (folder / "model").mkdir()
    tokenizer.train(iter(texts), 600, folder / "shards/tokenizer")
    written = (folder / "shards/tokenizer/tokenizer.json").read_text()
    encode = tokenizer.encoders(written)["tokenizers"]
    spelling = trim.Spelling(written)
    counts = np.bincount([n for text in texts for n in encode(text)], minlength=spelling.size)
    kept = trim.choose(spelling, counts.tolist(), None, 400)
    (folder / "model/tokenizer.json").write_text(trim.trim(written, kept))
    respell.write(folder / "model", respell.Trimmed(spelling.size, kept))
    return Place(Folder(folder / "shards"), Folder(folder / "model"), kept, [encode(text) for text in texts[:20]])


def text_of(folder: Folder, name: str, ids: list[int]) -> str:
    return str(Tokenizer.from_str(folder.read_text(name)).decode(ids, skip_special_tokens=False))


def test_rows_stand_for_the_same_text(place: Place) -> None:
    spell = respell.respeller(place.shards, place.model)
    assert spell is not None
    stays = {old: new for new, old in enumerate(place.kept)}
    longer = 0
    for row in place.rows:
        found = spell(row)
        assert text_of(place.model, "tokenizer.json", found) == text_of(place.shards, "tokenizer/tokenizer.json", row)
        longer += len(found) - len(row)
        short = [number for number in row if number in stays]
        assert spell(short) == [stays[number] for number in short]
    assert longer > 100, "some tokens went"


def test_rectangular_rows_are_cut_where_they_became_longer(place: Place) -> None:
    rows = np.array([row[:40] for row in place.rows], dtype=np.int32)
    found = respell.respelt(rows, place.shards, place.model)
    assert (found.shape, found.dtype) == (rows.shape, rows.dtype)
    spell = respell.respeller(place.shards, place.model)
    assert spell is not None
    assert found[3].tolist() == spell(rows[3])[:40]


def test_rows_of_the_models_own_tokenizer_stay_as_they_are(place: Place, tmp_path: Path) -> None:
    own = tmp_path / "shards"
    (own / "tokenizer").mkdir(parents=True)
    (own / "tokenizer/tokenizer.json").write_text(place.model.read_text("tokenizer.json"))
    assert respell.respeller(Folder(own), place.model) is None
    rows = np.zeros((2, 3), dtype=np.int32)
    assert respell.respelt(rows, Folder(own), place.model) is rows


def test_rows_of_a_third_tokenizer_are_refused(place: Place, tmp_path: Path) -> None:
    other = json.loads(place.shards.read_text("tokenizer/tokenizer.json"))
    numbers = other["model"]["vocab"]
    one, two = [word for word, number in numbers.items() if number in place.kept[300:302]]
    numbers[one], numbers[two] = numbers[two], numbers[one]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="2 of 600 tokens differ"):
        check_vocabulary(Folder(tmp_path), place.model)
    check_vocabulary(place.shards, place.model)
