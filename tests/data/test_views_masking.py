"""What masking hides: exactly so many tokens, whole words, no special ones; the same again for a sample, else another."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.data.views.masking import Masked
from manta.data.views.words import Ids
from manta.sections.objective import Masking, Mlm, MultiMlm

PAD, EOS, CLS, MASK = 0, 1, 2, 4
VOCAB, FIRST = 500, 10
SPECIAL = np.arange(VOCAB) < FIRST
CONTINUES = (np.arange(VOCAB) % 3 != 0) & ~SPECIAL  # two of three tokens are within words
IDS = Ids(SPECIAL, CONTINUES, np.zeros(VOCAB, bool), np.flatnonzero(~SPECIAL).astype(np.int32), MASK)


def view(objective: Masking | None = None, more: tuple[str, ...] = (), **given: Any) -> Masked:
    chosen = objective or Mlm(name="mlm", **given)
    several = isinstance(chosen, MultiMlm)
    labels = ("labels", "predecessor_labels") if several else ("labels",)
    stored = ("input_ids", *more)
    return Masked(stored, (*stored, *labels), chosen, IDS, least=2 if several else 1, predecessors=several)


def rows(number: int, seq: int, seed: int = 0) -> np.ndarray:
    """Text with an end of text here and there, and padding at the end of some rows."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(FIRST, VOCAB, (number, seq)).astype(np.int32)
    ids[draw.random((number, seq)) < 0.05] = EOS
    for row in range(0, number, 3):
        ids[row, seq - draw.integers(seq) :] = PAD
    return ids


def shown(found: dict[str, np.ndarray]) -> np.ndarray:
    return found["labels"] != -100


def wanted(ids: np.ndarray, fraction: float, least: int = 1) -> list[int]:
    there = (ids >= FIRST).sum(axis=1)
    return [min(max(math.floor(fraction * number + 0.5), least), number) for number in there.tolist()]


@settings(deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 40),
    st.floats(0.01, 0.99),
    st.sampled_from(["token", "span"]),
    st.integers(0, 2**62),
    st.integers(0, 2**63 - 1),
)
def test_exactly_as_many_as_asked_for_and_none_that_is_special(
    number: int, seq: int, fraction: float, unit: str, sample: int, seed: int
) -> None:
    ids = rows(number, seq, seed % 1000)
    kept = ids.copy()
    samples = sample + np.arange(number)
    found = view(mask_fraction=fraction, unit=unit)({"input_ids": ids}, samples, seed)
    assert np.array_equal(ids, kept), "what was given is left as it is"
    assert found["input_ids"].dtype == found["labels"].dtype == np.int32
    hidden = shown(found)
    assert hidden.sum(axis=1).tolist() == wanted(ids, fraction)
    assert not (hidden & (ids < FIRST)).any()
    assert np.array_equal(found["labels"][hidden], ids[hidden])
    assert np.array_equal(found["input_ids"][~hidden], ids[~hidden])
    assert set(np.unique(found["input_ids"][hidden])) <= {MASK, *range(FIRST, VOCAB)}


@pytest.mark.parametrize("unit", ["token", "whole_word", "span"])
def test_what_is_hidden_depends_on_the_sample_and_the_seed_alone(unit: str) -> None:
    row = rows(2, 60)[1:]
    samples = np.arange(40) + 5
    chosen = view(unit=unit)
    together = chosen({"input_ids": np.repeat(row, 40, axis=0)}, samples, 3)
    alone = [chosen({"input_ids": row}, samples[i : i + 1], 3) for i in range(40)]
    for name in together:
        assert np.array_equal(together[name], np.concatenate([one[name] for one in alone]))
    assert len({ids.tobytes() for ids in together["labels"]}) == 40, "another epoch hides other tokens"
    other = chosen({"input_ids": np.repeat(row, 40, axis=0)}, samples, 4)
    assert not (other["labels"] == together["labels"]).all(axis=1).any()
    again = pickle.loads(pickle.dumps(chosen))({"input_ids": row}, samples[:1], 3)
    assert np.array_equal(again["input_ids"], together["input_ids"][:1])


def test_the_shares_of_mask_random_and_kept() -> None:
    ids = np.full((2000, 100), FIRST + 7, dtype=np.int32)
    found = view()({"input_ids": ids}, np.arange(2000), 1)
    at = found["input_ids"][shown(found)]
    assert len(at) == 2000 * 15
    # A random token is the very one with probability 1/490: it counts as kept.
    for share, expected in (((at == MASK).mean(), 0.8), ((at == FIRST + 7).mean(), 0.1 + 0.1 / 490)):
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / len(at))
    drawn = at[(at != MASK) & (at != FIRST + 7)]
    counts = np.bincount(drawn, minlength=VOCAB)
    assert (counts[:FIRST] == 0).all()
    expected = len(drawn) / (VOCAB - FIRST - 1)
    assert np.square(np.delete(counts[FIRST:], 7) - expected).sum() / expected < 489 + 5 * math.sqrt(2 * 489)


def test_shares_are_settings() -> None:
    ids = np.full((50, 100), FIRST, dtype=np.int32)
    all_masked = view(replaced_by_mask=1.0, replaced_by_random=0.0)({"input_ids": ids}, np.arange(50), 1)
    assert (all_masked["input_ids"][shown(all_masked)] == MASK).all()
    kept = view(replaced_by_mask=0.0, replaced_by_random=0.0)({"input_ids": ids}, np.arange(50), 1)
    assert (kept["input_ids"] == ids).all() and shown(kept).sum() == 50 * 15
    drawn = view(replaced_by_mask=0.0, replaced_by_random=1.0)({"input_ids": ids}, np.arange(50), 1)
    assert (drawn["input_ids"][shown(drawn)] != MASK).all() and (drawn["input_ids"] != ids).sum() > 50 * 14


@pytest.mark.parametrize("unit", ["token", "span"])
def test_every_place_is_hidden_as_often(unit: str) -> None:
    ids = np.full((6000, 20), FIRST, dtype=np.int32)
    often = shown(view(unit=unit)({"input_ids": ids}, np.arange(6000), 2)).mean(axis=0)
    # Spans at the ends of so short a row are shorter, and fit a little more often.
    assert (np.abs(often - 0.15) < (5 * math.sqrt(0.15 * 0.85 / 6000) if unit == "token" else 0.035)).all()


# --- whole words -----------------------------------------------------------------------------------------------------


def words_of(ids: np.ndarray, begins: set[int]) -> list[list[int]]:
    """The places of each word of a row, one place at a time."""
    found: list[list[int]] = []
    for place, token in enumerate(ids.tolist()):
        joined = CONTINUES[token] and place - 1 not in begins and place > 0 and ids[place - 1] >= FIRST
        if joined and place not in begins:
            found[-1].append(place)
        elif token >= FIRST:
            found.append([place])
    return found


def test_words_are_hidden_whole_or_not_at_all() -> None:
    ids = rows(400, 80)
    found = view(unit="whole_word")({"input_ids": ids}, np.arange(400), 5)
    hidden = shown(found)
    off = []
    for row in range(400):
        cut = [hidden[row, word] for word in words_of(ids[row], set())]
        assert all(word.all() or not word.any() for word in cut)
        assert hidden[row].sum() == sum(word.sum() for word in cut)
        longest = max(map(len, cut), default=0)
        off.append(int(hidden[row].sum()) - wanted(ids[row : row + 1], 0.15)[0])
        assert off[-1] <= longest / 2 or sum(word.any() for word in cut) == 1
        assert not cut or hidden[row].any()
    whole = [off[row] for row in range(400) if row % 3]
    assert abs(np.mean(whole)) < 0.3, "on average as many as asked for"


def test_a_word_does_not_run_over_the_start_of_a_document() -> None:
    """Six tokens that continue a word each; a document begins at the fourth."""
    within = FIRST + 1
    ids = np.full((300, 6), within, dtype=np.int32)
    positions = np.tile(np.array([0, 1, 2, 0, 1, 2], dtype=np.int32), (300, 1))
    found = view(unit="whole_word", more=("position_ids",))(
        {"input_ids": ids, "position_ids": positions}, np.arange(300), 5
    )
    seen = {tuple(row) for row in shown(found).tolist()}
    assert seen == {(True,) * 3 + (False,) * 3, (False,) * 3 + (True,) * 3}
    assert np.array_equal(found["position_ids"], positions)


def test_a_word_ends_at_a_special_token() -> None:
    ids = np.tile(np.array([CLS, FIRST + 1, FIRST + 1, EOS, FIRST + 1, FIRST + 1], dtype=np.int32), (300, 1))
    found = view(unit="whole_word")({"input_ids": ids}, np.arange(300), 5)
    seen = {tuple(np.flatnonzero(row).tolist()) for row in shown(found)}
    assert seen == {(1, 2), (4, 5)}


# --- spans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean_span", [1.0, 3.0, 6.0])
def test_spans_have_the_mean_length_asked_for(mean_span: float) -> None:
    """Spans are geometric; two that touch look like one, with the probability of the next token's being hidden."""
    ids = np.full((300, 1000), FIRST, dtype=np.int32)
    hidden = shown(view(unit="span", mean_span=mean_span, mask_fraction=0.1)({"input_ids": ids}, np.arange(300), 9))
    runs = (hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]).sum()
    assert hidden.sum() == 300 * 100
    assert hidden.sum() / runs == pytest.approx(mean_span / (1 - 0.1), rel=0.05)


def test_a_span_does_not_run_over_the_start_of_a_document() -> None:
    ids = np.full((500, 6), FIRST, dtype=np.int32)
    positions = np.tile(np.array([0, 1, 2, 0, 1, 2], dtype=np.int32), (500, 1))
    columns = {"input_ids": ids, "position_ids": positions}
    long = view(unit="span", mean_span=1e9, mask_fraction=0.5, more=("position_ids",))
    seen = {tuple(np.flatnonzero(row).tolist()) for row in shown(long(columns, np.arange(500), 1))}
    assert seen == {(0, 1, 2), (3, 4, 5)}


# --- other columns ---------------------------------------------------------------------------------------------------


def test_what_the_attention_mask_leaves_out_is_not_hidden() -> None:
    ids = rows(60, 30)
    mask = np.tile((np.arange(30) < 20).astype(np.int32), (60, 1))
    found = view(more=("attention_mask",), mask_fraction=0.9)(
        {"input_ids": ids, "attention_mask": mask}, np.arange(60), 1
    )
    assert not shown(found)[:, 20:].any() and shown(found)[:, :20].any()


def test_padding_that_no_column_tells_of_gets_a_mask() -> None:
    ids = rows(30, 20)
    made = Masked(("input_ids",), ("input_ids", "attention_mask", "labels"), Mlm(name="mlm"), IDS, pad_id=PAD)
    found = made({"input_ids": ids}, np.arange(30), 1)
    assert np.array_equal(found["attention_mask"], (ids != PAD).astype(np.int32))
    assert found["attention_mask"].dtype == np.int32 and tuple(found) == made.columns_out


def test_the_tokens_before_those_that_are_hidden() -> None:
    ids = rows(200, 30)
    positions = np.tile(np.concatenate([np.arange(11), np.arange(19)]).astype(np.int32), (200, 1))
    chosen = view(MultiMlm(name="multi_mlm", mask_fraction=0.4), more=("position_ids",))
    found = chosen({"input_ids": ids, "position_ids": positions}, np.arange(200), 1)
    before = found["predecessor_labels"]
    assert before.dtype == np.int32
    for row in range(200):
        for place in range(30):
            text = place not in (0, 11) and ids[row, place - 1] >= FIRST
            expected = ids[row, place - 1] if found["labels"][row, place] != -100 and text else -100
            assert before[row, place] == expected
    assert (before != -100).sum() > 1000


def test_several_are_hidden_even_of_short_rows() -> None:
    ids = np.full((5, 4), FIRST, dtype=np.int32)
    ids[0, 1:] = EOS
    found = view(MultiMlm(name="multi_mlm"))({"input_ids": ids}, np.arange(5), 1)
    assert shown(found).sum(axis=1).tolist() == [1, 2, 2, 2, 2]


def test_a_row_without_text_hides_nothing() -> None:
    ids = np.full((2, 6), EOS, dtype=np.int32)
    for unit in ("token", "whole_word", "span"):
        found = view(unit=unit)({"input_ids": ids}, np.arange(2), 1)
        assert not shown(found).any() and np.array_equal(found["input_ids"], ids)
