"""Exact deduplication against a dictionary, and the split as a pure function of the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manta.data import dedup
from manta.storage import Folder
from tests.data.refining import stored


def as_array(texts: list[str]) -> np.ndarray:
    return np.frombuffer(b"".join(map(dedup.digest, texts)), dtype=np.uint8).reshape(-1, 16)


@given(st.lists(st.sampled_from("abcdefgh")))
def test_the_first_of_each_text_is_kept(texts: list[str]) -> None:
    seen: dict[str, int] = {}
    expected = [seen.setdefault(text, number) for number, text in enumerate(texts)]
    assert dedup.first_occurrences(as_array(texts)).tolist() == expected


def test_digests_that_share_a_half_stay_apart() -> None:
    rows = np.zeros((4, 16), dtype=np.uint8)
    rows[1, 0] = rows[2, 15] = 1
    assert dedup.first_occurrences(rows).tolist() == [0, 1, 2, 0]


def test_space_and_composition_do_not_make_a_new_document_but_words_and_case_do() -> None:
    same = ["One two.", " One\n\ttwo. "]
    assert len({dedup.digest(text) for text in same}) == 1
    assert dedup.digest("caf\u00e9") == dedup.digest("cafe\u0301")
    assert len({dedup.digest(text) for text in ("One two.", "one two.", "Onetwo.")}) == 3


def test_the_split_depends_on_the_text_and_the_seed_alone() -> None:
    texts = [f"document {number}" for number in range(4000)]
    held_out = dedup.is_validation(as_array(texts), 0.1, seed=3)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    again = dedup.is_validation(as_array([texts[i] for i in shuffled]), 0.1, seed=3)
    assert (again == held_out[shuffled]).all()
    assert 300 < held_out.sum() < 500, "a tenth, within five standard deviations"
    assert (dedup.is_validation(as_array(texts), 0.1, seed=4) != held_out).any()
    assert (held_out <= dedup.is_validation(as_array(texts), 0.2, seed=3)).all(), "a larger share holds the smaller one"
    assert not dedup.is_validation(as_array(texts), 0.0, seed=3).any()
    assert dedup.is_validation(as_array(texts), 1.0, seed=3).all()


def test_the_sample_is_drawn_independently_of_the_split() -> None:
    digests = as_array([f"document {number}" for number in range(4000)])
    held_out = dedup.is_validation(digests, 0.5, seed=0)
    rank = dedup.sample_rank(digests, seed=0)
    assert abs(float(rank[held_out].mean()) - float(rank[~held_out].mean())) < 0.05


def test_the_content_hash_forgets_order_the_fingerprint_remembers_places(tmp_path: Path) -> None:
    a, b = as_array(["one", "two"]), as_array(["two", "one"])
    assert dedup.content_hash(a) == dedup.content_hash(b)
    assert dedup.content_hash(a) != dedup.content_hash(as_array(["one", "three"]))
    texts = ["one", "two", "three"]
    whole, parts, swapped = (
        stored(Folder(tmp_path / name), listed, cuts).fingerprint()
        for name, listed, cuts in (("a", texts, []), ("b", texts, [1]), ("c", ["two", "one", "three"], []))
    )
    assert whole == parts != swapped
