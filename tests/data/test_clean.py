"""Each cleaning rule against documents planted to break exactly it."""

from __future__ import annotations

import pytest

from manta.data import clean
from manta.sections import Clean

PROSE = "The quick brown fox jumps over the lazy dog, and nobody minds at all.\n"
VARIED = "".join(
    f"Line {word} says that {word} is a word of its own.\n" for word in ("alpha", "beta", "gamma", "delta", "epsilon")
)

PLANTED = {
    "min_chars": "Too short.",
    "max_chars": "".join(f"Line {number} is a line of its own.\n" for number in range(100)),
    "min_alpha_fraction": "1234 5678 (90) == {12: 34} " * 10,
    "max_repeated_line_fraction": PROSE * 6,
}


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_document_is_dropped_under_its_rule(rule: str) -> None:
    settings = Clean(max_chars=1000)
    texts, reasons = clean.clean([VARIED, PLANTED[rule], VARIED], settings)
    assert reasons == [None, rule, None]
    assert texts[0] == VARIED.strip()


@pytest.mark.parametrize(
    ("rule", "limit"),
    [("min_chars", 1), ("max_chars", 10**6), ("min_alpha_fraction", 0.0), ("max_repeated_line_fraction", 1.0)],
)
def test_the_threshold_is_the_settings(rule: str, limit: float) -> None:
    settings = Clean(max_chars=1000).model_copy(update={rule: limit})
    assert clean.clean([PLANTED[rule]], settings)[1] == [None]


def test_limits_are_inclusive() -> None:
    assert clean.min_chars(["abc", "ab"], 3) == [True, False]
    assert clean.max_chars(["abc", "abcd"], 3) == [True, False]
    assert clean.min_alpha_fraction(["ab12", "a123"], 0.5) == [True, False]
    assert clean.max_repeated_line_fraction(["a\na", "a\na\na"], 0.5) == [True, False]


def test_letters_of_every_script_count() -> None:
    assert clean.min_alpha_fraction(["Ελληνικά", "日本語", "русский"], 1.0) == [True, True, True]


def test_empty_texts_break_only_the_length_rule() -> None:
    assert clean.clean(["", " \n\t\n"], Clean(min_chars=1))[1] == ["min_chars", "min_chars"]
    assert clean.clean([""], Clean(min_chars=0, min_alpha_fraction=0.0))[1] == [None]


def test_text_is_normalised_before_it_is_judged() -> None:
    decomposed, ligature = "e\u0301", "\ufb01"
    assert clean.unify([f"\n\n{decomposed}{ligature}  \r\nb\rc\n"], "NFC") == [f"é{ligature}\nb\nc"]
    assert clean.unify([ligature], "NFKC") == ["fi"]
    assert clean.unify([decomposed], "none") == [decomposed]
    assert clean.clean([decomposed * 3], Clean(min_chars=4))[1] == ["min_chars"], "three letters once composed"


def test_cleaning_twice_changes_nothing() -> None:
    once = clean.unify([VARIED, "a \n\n b\u2028c"], "NFKC")
    assert clean.unify(once, "NFKC") == once


def test_every_setting_is_read_by_a_rule() -> None:
    assert {"unicode", *clean.RULES} == set(Clean.model_fields)
