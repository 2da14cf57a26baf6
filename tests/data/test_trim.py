"""Trimmed tokenizers: texts of what was kept are cut as before, every text can still be written, and ids are in order."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from manta.data import tokenizer
from manta.data.tokenizers import engines, trim
from manta.errors import InputError
from manta.sections.prepare import Tokenizer as Settings

VOCAB = 1500


class Pair(NamedTuple):
    """A tokenizer, what is left of it for the first half of the texts, and those that the second half is of."""

    before: str
    after: str
    kept: list[int]
    texts: list[str]
    unseen: list[str]


@functools.cache
def engine(tokenizer_json: str) -> engines.Encode:
    found = engines.build("tokenizers", tokenizer_json)
    assert found is not None
    return found


def encode(tokenizer_json: str, text: str) -> list[int]:
    return list(engine(tokenizer_json)(text))


@pytest.fixture(scope="module", params=["bpe", "wordpiece", "unigram"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    texts = [json.loads(line)["text"] for name in ("a", "b") for line in (tiny_corpus / f"{name}.jsonl").open()]
    tokenizer.train(iter(texts), VOCAB, folder, Settings(type=request.param))
    before = (folder / "tokenizer.json").read_text()
    seen, unseen = texts[:60], texts[60:]
    spelling = trim.Spelling(before)
    counts = Counter(number for text in seen for number in encode(before, text))
    kept = trim.choose(spelling, [counts[number] for number in range(spelling.size)], 1.0, None)
    return Pair(before, trim.trim(before, kept), kept, seen, unseen)


def test_texts_whose_tokens_stay_are_cut_as_before(pair: Pair) -> None:
    assert len(pair.kept) < 0.95 * len(trim.ids(json.loads(pair.before)))
    for text in pair.texts:
        assert [pair.kept[number] for number in encode(pair.after, text)] == encode(pair.before, text)
    stays = set(pair.kept)
    alike = 0
    for line in {line for text in pair.unseen for line in text.splitlines()}:
        old = encode(pair.before, line)
        if set(old) <= stays:
            assert [pair.kept[number] for number in encode(pair.after, line)] == old
            alike += 1
    assert alike > 100


def test_tokens_keep_their_names_and_their_order(pair: Pair) -> None:
    old, new = (Tokenizer.from_str(text).get_vocab(with_added_tokens=True) for text in (pair.before, pair.after))
    assert sorted(new.values()) == list(range(len(pair.kept)))
    assert {word: pair.kept[number] for word, number in new.items()} == {
        word: number for word, number in old.items() if number in set(pair.kept)
    }
    wrapped = Tokenizer.from_str(pair.after).encode("return")
    before = Tokenizer.from_str(pair.before).encode("return")
    assert [pair.kept[number] for number in wrapped.ids] == before.ids, "what is put around a text has its new ids"


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Pair:
    folder = tmp_path_factory.mktemp("bytewise")
    texts = [json.loads(line)["text"] for line in (tiny_corpus / "a.jsonl").open()]
    tokenizer.train(iter(texts), VOCAB, folder)
    before = (folder / "tokenizer.json").read_text()
    spelling = trim.Spelling(before)
    counts = Counter(number for text in texts[:40] for number in encode(before, text))
    kept = trim.choose(spelling, [counts[number] for number in range(spelling.size)], None, 700)
    return Pair(before, trim.trim(before, kept), kept, texts[:40], texts[40:])


@functools.cache
def reader(tokenizer_json: str) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_is_read_back(bytewise: Pair, text: str) -> None:
    backend = reader(bytewise.after)
    assert backend.decode(encode(bytewise.after, text), skip_special_tokens=False) == text


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_text_of_what_stays_is_cut_as_before(bytewise: Pair, data: st.DataObject) -> None:
    """Texts made of pieces of the domain, in any order: wherever the old tokens all stay, the new ones are the same."""
    words = sorted({word for text in bytewise.texts[:20] for word in text.split(" ")})
    text = " ".join(data.draw(st.lists(st.sampled_from(words), max_size=12)))
    old = encode(bytewise.before, text)
    if set(old) <= set(bytewise.kept):
        assert [bytewise.kept[number] for number in encode(bytewise.after, text)] == old


def test_every_engine_reads_the_trimmed_one_alike(bytewise: Pair) -> None:
    found = engines.encoders(bytewise.after)
    assert "tiktoken" in found, "ids still follow the order of merges"
    for text in bytewise.unseen[:50]:
        ids = [list(encode_it(text)) for encode_it in found.values()]
        assert all(each == ids[-1] for each in ids)


def test_the_commonest_stay_with_all_they_are_made_of(bytewise: Pair) -> None:
    spelling = trim.Spelling(bytewise.before)
    assert 690 < len(bytewise.kept) <= 700
    stays = set(bytewise.kept)
    assert spelling.always <= stays
    for number in bytewise.kept:
        assert spelling.requires(number) <= stays
    counts = Counter(number for text in bytewise.texts for number in encode(bytewise.before, text))
    gone = max(count for number, count in counts.items() if number not in stays)
    for number, count in counts.items():
        assert number in stays or count <= gone
    assert sum(count > gone for count in counts.values()) > 100


def test_room_that_is_left_goes_to_the_first_merges(bytewise: Pair) -> None:
    """Of tokens that the text does not use those with the lowest ids stay."""
    spelling = trim.Spelling(bytewise.before)
    counts = Counter(number for text in bytewise.texts[:2] for number in encode(bytewise.before, text))
    kept = trim.choose(spelling, [counts[number] for number in range(spelling.size)], None, 800)
    assert set(counts) <= set(kept)
    needed = set().union(*(spelling.requires(number) for number in counts))
    unused = sorted(set(kept) - needed - spelling.always)
    assert len(kept) > 790
    assert set(range(unused[-1])) <= set(kept)


def test_coverage_is_reached_and_no_more(bytewise: Pair) -> None:
    spelling = trim.Spelling(bytewise.before)
    counts = Counter(number for text in bytewise.texts for number in encode(bytewise.before, text))
    listed = [counts[number] for number in range(spelling.size)]
    for coverage in (0.8, 0.95):
        kept = trim.choose(spelling, listed, coverage, None)
        covered = sum(listed[number] for number in kept) / sum(listed)
        assert coverage <= covered < coverage + 0.01


def test_a_lost_token_is_spelt_by_what_is_left(pair: Pair) -> None:
    lost = [word for word, number in trim.ids(json.loads(pair.before)).items() if number not in set(pair.kept)]
    known = {number: word for word, number in trim.ids(json.loads(pair.after)).items()}
    for word, found in trim.pieces(pair.after, lost).items():
        spelt = b"".join(_bytes(known[number]) for number in found)
        assert spelt in (_bytes(word), b"[UNK]"), word


def _bytes(token: str) -> bytes:
    """What a token stands for: a byte by its name, or letters, a continued word's without their mark."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.removeprefix("##").encode()


def test_what_cannot_be_trimmed_is_refused(bytewise: Pair) -> None:
    spelling = trim.Spelling(bytewise.before)
    with pytest.raises(
        InputError, match=r"compress\.vocabulary\.keep = 10: special tokens and the alphabet alone are 26\d"
    ):
        trim.choose(spelling, [1] * spelling.size, None, 10)
    with pytest.raises(InputError, match=r"all 1500 tokens would stay"):
        trim.choose(spelling, [1] * spelling.size, 1.0, None)
    with pytest.raises(InputError, match="type 'WordLevel' cannot be trimmed"):
        trim.Spelling(json.dumps({"model": {"type": "WordLevel", "vocab": {}}}))
    marked = json.loads(bytewise.before)
    marked["model"]["end_of_word_suffix"] = "</w>"
    with pytest.raises(InputError, match="marks the ends of words"):
        trim.Spelling(json.dumps(marked))
