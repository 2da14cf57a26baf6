"""Text infilling: one mask token a span, lengths as Poisson has them, special tokens in place, the row as labels."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.data.views import infilling
from manta.data.views.infilling import Infilled
from manta.data.views.words import Ids
from manta.sections.objective import Infilling

PAD, EOS, MASK, FIRST, VOCAB = 0, 1, 4, 10, 5000
SPECIAL = np.arange(VOCAB) < FIRST
ENDS = (np.arange(VOCAB) % 7 == 0) & ~SPECIAL
IDS = Ids(SPECIAL, np.zeros(VOCAB, bool), ENDS, np.flatnonzero(~SPECIAL).astype(np.int32), MASK)
COLUMNS = ("input_ids", "attention_mask", "labels")


def view(filled: bool = True, **given: Any) -> Infilled:
    return Infilled(("input_ids",), COLUMNS, Infilling(kind="infilling", **given), IDS, PAD, filled)


def rows(number: int, seq: int, seed: int = 0) -> np.ndarray:
    """Rows in which every token of text is another, with an end of text here and there, and padding after some."""
    draw = np.random.default_rng(seed)
    ids = np.stack([draw.permutation(np.arange(FIRST, VOCAB))[:seq] for _ in range(number)]).astype(np.int32)
    ids[draw.random((number, seq)) < 0.06] = EOS
    for row in range(0, number, 3):
        ids[row, seq - draw.integers(seq) :] = PAD
    return ids


def by_hand(row: list[int], lengths: list[int], begins: list[int]) -> list[int]:
    """A row with mask tokens for spans: `begins` count the tokens of text before each. Padding is left out."""
    text = [place for place, token in enumerate(row) if token >= FIRST]
    hidden: dict[int, int] = {}  # place -> which span hides it
    empty: list[int] = []  # places before which a span of length 0 stands
    for number, (length, begin) in enumerate(zip(lengths, begins, strict=True)):
        if length:
            hidden |= {text[at]: number for at in range(begin, begin + length)}
        else:
            empty.append(text[begin] if begin < len(text) else (text[-1] + 1))
    opened = sum(hidden.get(place, -1) not in (-1, hidden.get(place - 1, -1)) for place in range(len(row)))
    room = len(hidden) - opened + row.count(PAD)
    empty = sorted(empty)[:room]
    found: list[int] = []
    for place in range(len(row) + 1):
        found += [MASK] * empty.count(place)
        if place == len(row) or row[place] == PAD:
            continue
        if place not in hidden:
            found.append(row[place])
        elif hidden.get(place - 1) != hidden[place]:
            found.append(MASK)
    return found


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 60), st.floats(0.01, 0.95), st.floats(1.0, 8.0), st.integers(0, 2**62))
def test_against_spans_put_in_by_hand(number: int, seq: int, fraction: float, mean: float, seed: int) -> None:
    ids, samples = rows(number, seq, seed % 997), np.arange(number) + seed
    chosen = view(mask_fraction=fraction, mean_span=mean)
    found = chosen({"input_ids": ids}, samples, seed)
    there = (ids >= FIRST).sum(axis=1)
    lengths, used = chosen._lengths(there, samples, seed)
    begins = infilling._placed(there, lengths, used, samples, seed)
    for row in range(number):
        one = used[row]
        expected = by_hand(ids[row].tolist(), lengths[row][one].tolist(), begins[row][one].tolist())
        assert len(expected) <= seq
        assert found["input_ids"][row].tolist() == expected + [PAD] * (seq - len(expected))
        assert found["attention_mask"][row].tolist() == [1] * len(expected) + [0] * (seq - len(expected))
        wanted = min(max(math.floor(fraction * there[row] + 0.5), 1), there[row])
        assert lengths[row].sum() == wanted
        assert (ids[row] >= FIRST).sum() - (found["input_ids"][row] >= FIRST).sum() == wanted
        assert (found["input_ids"][row] == EOS).sum() == (ids[row] == EOS).sum(), "special tokens stay"
    assert np.array_equal(found["labels"], np.where(ids == PAD, -100, ids))
    assert all(values.dtype == np.int32 and values.shape == ids.shape for values in found.values())


def test_lengths_are_poisson() -> None:
    lengths, used = view(mask_fraction=0.9)._lengths(np.full(20000, 60), np.arange(20000), 1)
    assert used[:, 0].all()
    counts = np.bincount(lengths[:, 0], minlength=12)
    for length in range(10):
        share = math.exp(-3.0) * 3.0**length / math.factorial(length)
        assert abs(counts[length] - 20000 * share) < 5 * math.sqrt(20000 * share)
    assert (lengths.sum(axis=1) == 54).all()
    assert (lengths[~used] == 0).all()


def test_every_place_is_as_likely() -> None:
    """One hidden token of three: a third each. Two of four as one span: three places, a third each."""
    ids = np.tile(np.arange(FIRST, FIRST + 3, dtype=np.int32), (9000, 1))
    shown = view()({"input_ids": ids}, np.arange(9000), 1)["input_ids"]
    counts = [(shown == MASK)[:, place].sum() for place in range(3)]
    assert sum(counts) == 9000
    assert all(abs(count - 3000) < 5 * math.sqrt(9000 * 2 / 9) for count in counts)
    there = np.full(9000, 4)
    begins = infilling._placed(there, np.full((9000, 1), 2), np.ones((9000, 1), bool), np.arange(9000), 1)
    assert all(abs(count - 3000) < 5 * math.sqrt(9000 * 2 / 9) for count in np.bincount(begins[:, 0]))
    assert begins.max() == 2


def test_an_infilled_row_is_shorter_by_what_it_lost() -> None:
    """BART's figures: of 1000 tokens 300 are hidden by about 100 mask tokens, a twentieth of which hide nothing."""
    ids = rows(200, 1000)[np.arange(200) % 3 != 0]
    found = view()({"input_ids": ids}, np.arange(len(ids)), 1)
    masks = (found["input_ids"] == MASK).sum(axis=1)
    hidden = (ids >= FIRST).sum(axis=1) - (found["input_ids"] >= FIRST).sum(axis=1)
    # More than a third of the hidden tokens by those spans that a special token cuts in two.
    assert 1 / 3 < masks.sum() / hidden.sum() < 0.42
    assert (found["attention_mask"].sum(axis=1) == 1000 - hidden + masks).all()


@pytest.mark.parametrize("permute", [False, True])
def test_a_sample_is_the_same_again_and_the_next_another(permute: bool) -> None:
    row, samples = rows(2, 80)[1:], np.arange(30) + 5
    chosen = view(permute_sentences=permute)
    together = chosen({"input_ids": np.repeat(row, 30, axis=0)}, samples, 3)
    alone = [chosen({"input_ids": row}, samples[i : i + 1], 3) for i in range(30)]
    for name in together:
        assert np.array_equal(together[name], np.concatenate([one[name] for one in alone]))
    assert len({ids.tobytes() for ids in together["input_ids"]}) == 30
    other = chosen({"input_ids": np.repeat(row, 30, axis=0)}, samples, 4)
    assert not (other["input_ids"] == together["input_ids"]).all(axis=1).any()
    again = pickle.loads(pickle.dumps(chosen))({"input_ids": row}, samples[:1], 3)
    assert np.array_equal(again["input_ids"], together["input_ids"][:1])


def sentences(row: np.ndarray) -> list[list[list[int]]]:
    """The sentences between fixed tokens, of each stretch."""
    found: list[list[list[int]]] = [[]]
    open_sentence = False
    for token in row.tolist():
        if token < FIRST:
            found.append([])
            open_sentence = False
            continue
        if not open_sentence:
            found[-1].append([])
        found[-1][-1].append(token)
        open_sentence = not ENDS[token]
    return found


def test_sentences_change_places_within_their_document() -> None:
    ids = rows(200, 60)
    chosen = view(permute_sentences=True)
    found = chosen._permuted(ids, ids != PAD, np.arange(200), 1)
    moved = 0
    for row in range(200):
        assert np.array_equal(found[row] < FIRST, ids[row] < FIRST), "fixed tokens stay"
        before, after = sentences(ids[row]), sentences(found[row])
        for one, other in zip(before, after, strict=True):
            # A last sentence without an end runs into what comes to stand behind it: compare all tokens, and whole ones.
            tokens = [token for sentence in other for token in sentence]
            assert sorted(tokens) == sorted(token for sentence in one for token in sentence)
            whole = [sentence for sentence in one if ENDS[sentence[-1]]]
            text = " " + " ".join(map(str, tokens)) + " "
            assert all(" " + " ".join(map(str, sentence)) + " " in text for sentence in whole)
            moved += one != other
    assert moved > 100
    labels = chosen({"input_ids": ids}, np.arange(200), 1)["labels"]
    assert np.array_equal(labels, np.where(ids == PAD, -100, ids)), "what is learnt is the text in its order"


def test_every_order_of_sentences_is_as_likely() -> None:
    """Three sentences of two tokens: six orders."""
    row = np.array([[11, 14, 15, 21, 16, 28]], dtype=np.int32)
    assert len(sentences(row[0])[0]) == 3
    ids = np.repeat(row, 6000, axis=0)
    found = view(permute_sentences=True)._permuted(ids, ids != PAD, np.arange(6000), 1)
    orders = {tuple(one): 0 for one in found.tolist()}
    for one in found.tolist():
        orders[tuple(one)] += 1
    assert len(orders) == 6
    assert all(abs(count - 1000) < 5 * math.sqrt(6000 * 5 / 36) for count in orders.values())


def test_an_end_of_text_that_fills_rows_up_is_text() -> None:
    """Without a padding token nothing tells the end of the text from what fills the row."""
    ids = rows(2, 20)[1:]
    ids[0, 15:] = EOS
    chosen = Infilled(("input_ids",), COLUMNS, Infilling(kind="infilling"), IDS, EOS, filled=False)
    found = chosen({"input_ids": ids}, np.arange(1), 1)
    assert np.array_equal(found["labels"], ids)
    length = int(found["attention_mask"].sum())
    assert (found["input_ids"][0, length:] == EOS).all() and (found["input_ids"] == EOS).sum() > (ids == EOS).sum()


def test_a_row_without_text_stays() -> None:
    ids = np.array([[EOS, EOS, PAD], [PAD, PAD, PAD]], dtype=np.int32)
    found = view(permute_sentences=True)({"input_ids": ids}, np.arange(2), 1)
    assert np.array_equal(found["input_ids"], ids)
    assert found["attention_mask"].tolist() == [[1, 1, 0], [0, 0, 0]]
