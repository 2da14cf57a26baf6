"""Cleaning steps against documents planted to break exactly one of their rules, and how a list of steps is applied."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from manta.data import cleaning
from manta.data.cleaning import Batch
from manta.data.cleaning.normalise import normalise, unify
from manta.sections.prepare import DEFAULT_STEPS, ExactDedup, Length, Letters, Normalise, RepeatedLines, Step

PROSE = "The quick brown fox jumps over the lazy dog, and nobody minds at all.\n"
VARIED = "".join(
    f"Line {word} says that {word} is a word of its own.\n" for word in ("alpha", "beta", "gamma", "delta", "epsilon")
)
# rule -> (its step, a document that breaks it and no other rule of `STEPS`)
PLANTED = {
    "length.min_chars": "Too short.",
    "length.max_chars": "".join(f"Line {number} is a line of its own.\n" for number in range(100)),
    "letters.min_fraction": "1234 5678 (90) == {12: 34} " * 10,
    "repeated_lines.max_fraction": PROSE * 6,
}


def steps(*raw: dict[str, Any]) -> list[Any]:
    return TypeAdapter(list[Step]).validate_python(list(raw))


STEPS = steps(
    {"step": "normalise"}, {"step": "length", "max_chars": 1000}, {"step": "letters"}, {"step": "repeated_lines"}
)


def reasons(texts: list[str], chosen: list[Any]) -> list[str | None]:
    return cleaning.apply(Batch(texts, [""] * len(texts)), chosen).reasons


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_document_is_dropped_under_its_rule(rule: str) -> None:
    outcome = cleaning.apply(Batch([VARIED, PLANTED[rule], VARIED], ["en", "", ""]), STEPS)
    assert outcome.reasons == [None, rule, None]
    assert outcome.texts[0] == VARIED.strip()
    assert outcome.languages[0] == "en"


@pytest.mark.parametrize(
    ("rule", "limit"),
    [
        ("length.min_chars", 1),
        ("length.max_chars", 10**6),
        ("letters.min_fraction", 0.0),
        ("repeated_lines.max_fraction", 1.0),
    ],
)
def test_the_threshold_is_the_settings(rule: str, limit: float) -> None:
    name, _, key = rule.partition(".")
    loosened = [step.model_copy(update={key: limit}) if step.step == name else step for step in STEPS]
    assert reasons([PLANTED[rule]], loosened) == [None]


def test_limits_are_inclusive() -> None:
    assert reasons(["abc", "ab"], [Length(step="length", min_chars=3)]) == [None, "length.min_chars"]
    bounded = Length(step="length", min_chars=0, max_chars=3)
    assert reasons(["abc", "abcd"], [bounded]) == [None, "length.max_chars"]
    assert reasons(["ab12", "a123"], [Letters(step="letters")]) == [None, "letters.min_fraction"]
    repeated = RepeatedLines(step="repeated_lines")
    assert reasons(["a\na", "a\na\na"], [repeated]) == [None, "repeated_lines.max_fraction"]


def test_letters_of_every_script_count() -> None:
    whole = Letters(step="letters", min_fraction=1.0)
    assert reasons(["Ελληνικά", "日本語", "русский"], [whole]) == [None] * 3


def test_words_count_in_every_script() -> None:
    few = Length(step="length", min_chars=0, min_words=4, max_words=6)
    assert reasons(["one two three", "one two three four", "我们明天去北京大学学习中文", "明天"], [few]) == [
        "length.min_words",
        None,
        None,
        "length.min_words",
    ]


def test_text_is_normalised_before_it_is_judged() -> None:
    decomposed, ligature = "e\u0301", "\ufb01"
    assert unify(f"\n\n{decomposed}{ligature}  \r\nb\rc\n", "NFC") == f"é{ligature}\nb\nc"
    assert unify(ligature, "NFKC") == "fi"
    assert unify(decomposed, "none") == decomposed
    assert reasons([decomposed * 3], [STEPS[0], Length(step="length", min_chars=4)]) == ["length.min_chars"]


def test_invisible_characters_go_and_joiners_stay() -> None:
    seen = Batch(["a\u200bb\u00ad\ufeffc\x00\x07d\u202ee", "\u0646\u200c\u0645"], ["", "fa"])
    assert normalise(seen, Normalise(step="normalise")).texts == ["abcde", "\u0646\u200c\u0645"]
    kept = Normalise(step="normalise", control=False)
    assert normalise(Batch(["a\u200bb"], [""]), kept).texts == ["a\u200bb"]


def test_mojibake_is_repaired_on_request_only() -> None:
    broken = "schÃ¶n, 'quoted' â\x80\x94 fine"
    assert normalise(Batch([broken], [""]), Normalise(step="normalise", repair=True)).texts == [
        "schön, 'quoted' — fine"
    ]
    assert "Ã¶" in normalise(Batch([broken], [""]), Normalise(step="normalise")).texts[0]


def test_repair_leaves_what_was_meant_as_it_is() -> None:
    meant = ["你好，世界！（真的吗？）他说：“好；” ＡＢ１２ ｶﾀｶﾅ", "&lt;b&gt; is a tag, &amp; is not", "‘curly’ ﬁne…"]
    repair = Normalise(step="normalise", repair=True)
    assert normalise(Batch(meant, ["zh", "en", "en"]), repair).texts == meant


def test_cleaning_twice_changes_nothing() -> None:
    once = cleaning.apply(Batch([VARIED, "a \n\n b\u2028c"], ["", ""]), STEPS[:1]).texts
    assert cleaning.apply(Batch(once, ["", ""]), STEPS[:1]).texts == once


def test_a_dropped_document_is_not_shown_to_the_next_step() -> None:
    both = [Length(step="length", min_chars=50), Letters(step="letters")]
    assert reasons(["123"], both) == ["length.min_chars"]
    assert reasons(["123"], both[::-1]) == ["letters.min_fraction"], "the order is the recipe's"


def test_steps_on_the_corpus_end_a_phase() -> None:
    exact = ExactDedup(step="exact_dedup")
    found = cleaning.phases([*STEPS[:2], exact, STEPS[2], exact, exact])
    assert [(phase.local, phase.corpus) for phase in found] == [
        (STEPS[:2], exact),
        (STEPS[2:3], exact),
        ([], exact),
    ]
    assert cleaning.phases([]) == [cleaning.Phase([], None)]
    assert cleaning.phases(DEFAULT_STEPS)[-1].corpus == exact


def test_every_step_of_the_vocabulary_has_a_function() -> None:
    known = set(TypeAdapter(Step).json_schema()["discriminator"]["mapping"])
    assert known == {*cleaning.CORPUS_STEPS, *cleaning.STEPS, "decontaminate"}
