"""Entities in tags: broken sequences by hand, counts by hand, and seqeval where it is installed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.tasks.scoring import spans
from manta.tasks.scoring.spans import Counts, entities


def read(tags: str, reading: spans.Reading = "lenient") -> list[tuple[str, int, int]]:
    return [tuple(entity) for entity in entities(tags.split(), reading)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", []),
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("O I-PER I-PER", [("PER", 1, 2)]),  # nothing open before I: it begins one
        ("B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),  # the type changes
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        ("B-PER I-PER E-PER S-PER", [("PER", 0, 2), ("PER", 3, 3)]),
        ("S-PER I-PER E-PER E-PER", [("PER", 0, 0), ("PER", 1, 2), ("PER", 3, 3)]),
        ("B-a-b I-a-b", [("a-b", 0, 1)]),  # a type may hold a dash
    ],
)
def test_lenient_reading(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert read(tags) == found


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("O I-PER I-PER", []),
        ("B-PER I-LOC I-PER", [("PER", 0, 0)]),
        ("B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
    ],
)
def test_strict_bio_drops_what_does_not_begin(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert read(tags, "bio") == found


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER E-PER S-LOC", [("PER", 0, 2), ("LOC", 3, 3)]),
        ("B-PER I-PER O", []),  # never ended
        ("B-PER", []),  # a single one is S
        ("E-PER I-PER S-PER", [("PER", 2, 2)]),
        ("B-PER B-PER E-PER", [("PER", 1, 2)]),
        ("B-PER E-LOC E-PER", []),
    ],
)
def test_strict_bioes_wants_an_end(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert read(tags, "bioes") == found


@pytest.mark.parametrize("tag", ["PER", "B", "B-", "-PER", "X-PER", ""])
def test_a_tag_without_mark_or_type_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="marks no entity"):
        entities([tag])
    assert spans.scheme_of(["O", "B-PER", tag]) == "none"


def test_the_scheme_follows_from_the_tags() -> None:
    assert spans.scheme_of({"O", "I-PER", "B-PER"}) == "bio"
    assert spans.scheme_of({"O", "B-PER", "S-PER"}) == "bioes"
    assert spans.scheme_of({"O"}) == "none"  # nothing to find
    assert spans.scheme_of(["NOUN", "VERB"]) == "none"


PREDICTIONS = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG", "O"], ["O"]]
REFERENCES = [["B-PER", "I-PER", "O", "B-PER"], ["O", "B-ORG", "I-ORG"], ["O"]]


def test_counts_and_figures_by_hand() -> None:
    # PER: one of two found, LOC: guessed once in vain, ORG: its end is wrong
    assert spans.count(PREDICTIONS, REFERENCES) == {"LOC": (0, 1, 0), "ORG": (0, 1, 1), "PER": (1, 1, 2)}
    assert spans.each(PREDICTIONS, REFERENCES) == [(1, 2, 2), (0, 1, 1), (0, 0, 0)]
    assert spans.f1(PREDICTIONS, REFERENCES) == pytest.approx(2 * 1 / (3 + 3))
    figures = spans.figures(PREDICTIONS, REFERENCES)
    assert figures == pytest.approx(
        {"precision": 100 / 3, "recall": 100 / 3, "f1": 100 / 3, "macro_f1": 100 * (0 + 0 + 2 / 3) / 3}
    )


def test_nothing_to_find_is_perfect_only_when_nothing_is_guessed() -> None:
    assert spans.f1([["O"]], [["O"]]) == 1.0
    assert spans.f1([["B-PER"]], [["O"]]) == 0.0
    assert Counts(0, 0, 3).precision == 0.0
    assert Counts(0, 3, 0).recall == 0.0


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="sequence 1 has 1 tags where the reference has 2"):
        spans.f1([["O"], ["O"]], [["O"], ["O", "O"]])


TAGS = st.lists(st.sampled_from(["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in "XY")]), max_size=8)


@given(st.lists(st.tuples(TAGS, TAGS), max_size=3))
def test_seqeval_agrees_on_any_sequence(pairs: list[tuple[list[str], list[str]]]) -> None:
    labels = pytest.importorskip("seqeval.metrics.sequence_labeling")
    schemes = pytest.importorskip("seqeval.scheme")
    for guess, truth in pairs:
        for tags in (guess, truth):
            assert [tuple(e) for e in entities(tags)] == labels.get_entities(tags)
            bio = [tag for tag in tags if tag[0] in "OBI"]
            for strict, scheme, given_tags in (("bio", schemes.IOB2, bio), ("bioes", schemes.IOBES, tags)):
                theirs = [(e.tag, e.start, e.end - 1) for e in schemes.Tokens(given_tags, scheme).entities]
                assert [tuple(e) for e in entities(given_tags, strict)] == theirs  # type: ignore[arg-type]
