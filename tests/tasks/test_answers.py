"""SQuAD's exact match and F1 by hand: what is normalised, several references, questions without an answer."""

from __future__ import annotations

import pytest

from manta.tasks.scoring.answers import exact, f1, figures, normalise


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel  Tower!", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("Theatre", "theatre"),  # an article is a word
        ("U.S.A.", "usa"),
        ("the", ""),
        ("don't", "dont"),
    ],
)
def test_what_does_not_matter(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_the_best_reference_counts() -> None:
    references = ["in 1889", "1889", "the year 1889"]
    assert exact("1889.", references) == 1.0
    assert exact("on 1889", references) == 0.0
    # against "in 1889": one of two and two; against "1889": one of two and one; the year 1889: one of two and two
    assert f1("on 1889", references) == pytest.approx(2 * 1 / (2 + 1))


def test_words_are_counted_with_repeats() -> None:
    assert f1("new new york", ["new york city"]) == pytest.approx(2 * 2 / (3 + 3))
    assert f1("york new", ["new york"]) == 1.0


def test_no_answer_is_right_or_wrong() -> None:
    assert (exact("", []), f1("", [])) == (1.0, 1.0)
    assert (exact("Paris", []), f1("Paris", [])) == (0.0, 0.0)
    assert (exact("", ["Paris"]), f1("", ["Paris"])) == (0.0, 0.0)
    assert exact("", ["", "Paris"]) == 0.0  # an empty reference beside real ones is none


def test_figures_by_hand() -> None:
    found = figures(["Paris", "", "in Rome", "Bonn", ""], [["Paris"], [], ["Rome"], [], ["Oslo"]])
    assert found == pytest.approx(
        {
            "exact_match": 100 * 2 / 5,
            "f1": 100 * (1 + 1 + 2 / 3) / 5,
            "answerable_f1": 100 * (1 + 2 / 3 + 0) / 3,
            "unanswerable_recall": 50.0,
            "unanswerable_precision": 50.0,
        }
    )
    assert figures(["Paris"], [["Paris"]]) == {"exact_match": 100.0, "f1": 100.0}


def test_scripts_without_blanks_are_compared_by_letters() -> None:
    assert normalise("《北京 大学》。") == "北 京 大 学" == normalise("北京大学")
    assert exact("北京大学。", ["北京 大学"]) == 1.0
    assert f1("在北京", ["北京大学"]) == pytest.approx(2 * 2 / (3 + 4))
    assert normalise("“Curly” quotes") == "“curly” quotes"  # as SQuAD's own scorer leaves them
    assert normalise("the 2008 北京 Olympics") == "2008 北 京 olympics"
