"""Perturbations by hand and their invariants: what is drawn, that labels on words and characters move along, that nothing is lost."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.data.augment.characters import homophones
from manta.evaluate.robustness import perturbations, variants
from manta.evaluate.robustness.edits import Edit, applied, confined, moved, sparing
from manta.sections.robustness import Robustness
from manta.tasks import TASKS, fields
from manta.tasks.fields import Field

SYNONYMS = {"film": ("picture", "movie"), "owl": ("bird",), "fine": ("great",)}
ALL = ["typos", "lower", "upper", "title", "punctuation", "blanks", "synonyms"]
TEXT = "A fine film, really: it cost 3.14 dollars and nobody slept"


class Drawn:
    """A generator whose draws are given beforehand."""

    def __init__(self, *draws: Any):
        self.draws = list(draws)

    def integers(self, *_: Any, **__: Any) -> Any:
        return self.draws.pop(0)

    def choice(self, *_: Any, **__: Any) -> Any:
        return np.array(self.draws.pop(0))


def after(name: str, text: str, rate: float, *draws: Any) -> str:
    return applied(text, perturbations.table(SYNONYMS)[name](text, rate, Drawn(*draws)))


# --- each by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draws", "wanted"),
    [
        # Words of four letters: fine 0, film 1, really 2, cost 3, dollars 4, nobody 5, slept 6.
        (([1], 0, 0, 0), "A fine fulm, really"),  # the key beside i: u, o, j, k
        (([1], 1, 0), "A fine flim, really"),
        (([2], 2, 3), "A fine film, realy"),
        (([0], 3, 1), "A finne film, really"),
    ],
    ids=["neighbour", "swap", "drop", "doubling"],
)
def test_slips_by_hand(draws: tuple[Any, ...], wanted: str) -> None:
    assert after("typos", TEXT, 0.1, *draws) == TEXT.replace("A fine film, really", wanted)


def test_slips_of_a_script_without_spaces() -> None:
    text = "我们爱电影"
    assert after("typos", text, 0.2, [1], 0, 0) == f"我{homophones()['们'][0]}爱电影"
    assert after("typos", text, 0.2, [0], 0, 1) == "们我爱电影"
    assert after("typos", text, 0.2, [0], 0, 2) == "们爱电影"
    assert after("typos", text, 0.2, [4], 0, 3) == "我们爱电影影"
    assert after("typos", text, 0.4, [0, 1], 0, 1) == "们我爱电影", "a character that was swapped is not changed again"


def test_capitals_change_every_word() -> None:
    assert after("lower", "Ben Saw NASA's USA", 0.1) == "ben saw nasa's usa"
    assert after("upper", "Straße o'Neil", 0.1) == "STRASSE O'NEIL"
    assert after("title", "an OWL flew, 3 times", 0.1) == "An Owl Flew, 3 Times"


def test_marks_by_hand() -> None:
    # Words: A 0, fine 1, film 2, really 3, it 4, cost 5, 3.14 6, dollars 7.
    assert after("punctuation", TEXT, 0.1, [2], 1, 0).startswith("A fine film really:")
    assert after("punctuation", TEXT, 0.1, [2], 0, 0).startswith("A fine film,, really:")
    assert after("punctuation", TEXT, 0.1, [1], 0, 1).startswith("A fine; film,")
    assert after("punctuation", "so it goes", 0.1, [2], 0, 2) == "so it goes."
    assert after("punctuation", "a (b) c", 0.1, [1], 0, 2) == "a (b) c", "not before a bracket"
    assert after("punctuation", "film , really", 0.1, [0], 1, 0) == "film really"
    assert after("punctuation", "我们爱电影", 0.1, [0], 0, 0) == "我们，爱电影"


def test_blanks_by_hand() -> None:
    draw = lambda kind, place: np.array([kind, place])  # noqa: E731
    assert after("blanks", "a fine film", 0.1, [1], draw(0, 1)) == "a fi ne film"
    assert after("blanks", "a fine film", 0.1, [1], draw(1, 0)) == "a fine  film"
    assert after("blanks", "a fine film", 0.1, [1], draw(2, 0)) == "a finefilm"
    assert after("blanks", "a fine film", 0.1, [0], draw(1, 0)) == "afine film", "a short word is not parted"
    assert after("blanks", "a fine film", 0.1, [2], draw(5, 0)) == "a fine f ilm", "the last has no blank behind it"


def test_synonyms_by_hand() -> None:
    # Only words of the dictionary are drawn from; after "an" a word that begins with a vowel would be needed.
    assert after("synonyms", "a fine film of an owl", 0.1, [1], 1) == "a fine movie of an owl"
    assert after("synonyms", "a fine film of an owl", 0.5, [0, 1], 0, 0) == "a great picture of an owl"
    assert "synonyms" not in perturbations.table(None)


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_span_moves_with_what_is_before_and_grows_with_what_is_within() -> None:
    text = "see new york now"
    edits = [Edit(0, 3, "look at"), Edit(7, 7, "er"), Edit(12, 12, "!"), Edit(13, 16, "")]
    assert applied(text, edits) == "look at newer york! "
    assert moved((4, 12), edits) == (8, 18)
    assert applied(text, edits)[8:18] == "newer york", "what is put in behind its end is outside"
    assert moved((4, 12), [Edit(4, 4, "a ")]) == (6, 14), "and so is what is put in before its start"
    assert moved((4, 7), [Edit(2, 5, "-")]) == (2, 5), "an edit across its start is inside as a whole"
    assert moved((4, 7), [Edit(6, 9, "--")]) == (4, 8)
    with pytest.raises(ValueError, match="overlaps"):
        applied(text, [Edit(0, 3, ""), Edit(2, 4, "")])


def test_edits_that_leave_nothing_or_touch_two_words_are_left_out() -> None:
    assert sparing("a b", [Edit(0, 1, ""), Edit(2, 3, "c")], [(0, 1), (2, 3)]) == [Edit(2, 3, "c")]
    spans = [(0, 2), (3, 5)]
    edits = [Edit(1, 1, "x"), Edit(2, 2, ","), Edit(2, 3, ""), Edit(3, 5, "e")]
    assert confined(edits, spans) == [Edit(1, 1, "x"), Edit(3, 5, "e")]


texts = st.text(
    st.one_of(
        st.sampled_from(list("abcdefgh ABC  .,;:!?'-\n我们爱电影的，。")), st.characters(exclude_categories=["Cs"])
    ),
    min_size=1,
    max_size=60,
)
words = st.lists(st.one_of(st.sampled_from(["film", "owl", "London", ",", "it's", "3.14", "电影"]), texts), min_size=1, max_size=8)  # fmt: skip


def changes(name: str, seed: int, rate: float = 0.5) -> variants.Change:
    perturb = perturbations.table(SYNONYMS)[name]
    return lambda text, field: perturb(text, rate, np.random.default_rng(seed))


@given(texts, st.sampled_from(ALL), st.integers(0, 99), st.sampled_from([0.1, 0.5, 1.0]))
def test_edits_are_in_order_and_change_something(text: str, name: str, seed: int, rate: float) -> None:
    edits = changes(name, seed, rate)(text, "text")
    assert all(edit.start <= edit.end <= len(text) and text[edit.start : edit.end] != edit.by for edit in edits)
    assert all(one.end <= other.start for one, other in itertools.pairwise(edits))
    assert edits == changes(name, seed, rate)(text, "text"), "a function of the draw alone"
    if name in ("lower", "upper", "title"):
        assert applied(text, edits).casefold() == applied(text, []).casefold() or not text.isascii()


@given(words, st.sampled_from(ALL), st.integers(0, 99))
def test_words_stay_as_many_and_none_is_blank(given_words: list[str], name: str, seed: int) -> None:
    example = {"tokens": [word for word in given_words if word.strip()] or ["x"], "tags": []}
    made = variants.perturbed(example, "tagging", changes(name, seed))
    assert len(made["tokens"]) == len(example["tokens"]) and all(word.strip() for word in made["tokens"])


@given(st.data(), texts.filter(str.strip), st.sampled_from(ALL), st.integers(0, 99))
def test_answers_and_spans_still_cut_out_what_they_name(data: st.DataObject, text: str, name: str, seed: int) -> None:
    def cut() -> tuple[int, int]:
        start = data.draw(st.integers(0, len(text) - 1))
        return start, data.draw(st.integers(start + 1, len(text)))

    (start, end), head, tail = cut(), cut(), cut()
    answers = [{"text": text[start:end], "start": start}] if text[start:end].strip() else []
    asked = {"question": "Which film?", "context": text, "answers": answers}
    kinds = (Field("question", "text"), Field("context", "text"), Field("answers", "answers"))
    made = variants.perturbed(asked, "answering", changes(name, seed))
    assert fields.complaint(kinds, made) is None
    assert len(made["answers"]) == len(answers)
    kinds = (Field("text", "text"), Field("head", "span"), Field("tail", "span"), Field("label", "label"))
    marked = {"text": text, "head": list(head), "tail": list(tail), "label": "x"}
    made = variants.perturbed(marked, "relations", changes(name, seed))
    if all(text[slice(*span)].strip() for span in (head, tail)):
        assert fields.complaint(kinds, made) is None


def test_an_answer_moves_and_is_what_the_text_says_there() -> None:
    example = {
        "question": "where?",
        "context": "Ben saw it in New York",
        "answers": [{"text": "New York", "start": 14}],
    }
    shouted = variants.perturbed(example, "answering", changes("upper", 0))
    assert shouted == {"question": "WHERE?", "context": "BEN SAW IT IN NEW YORK", "answers": [{"text": "NEW YORK", "start": 14}]}  # fmt: skip
    longer = variants.perturbed(example, "answering", lambda text, field: [Edit(3, 3, " himself")] if field == "context" else [])  # fmt: skip
    assert longer["answers"] == [{"text": "New York", "start": 22}]


# --- whole sets ------------------------------------------------------------------------------------------------------


def test_an_examples_variants_depend_on_its_place_and_the_seed_alone() -> None:
    examples = [{"text": f"{TEXT} {number}", "label": "a"} for number in range(4)]
    settings = Robustness.model_validate({"rate": 0.3})
    first = variants.variants(examples, "classification", settings, 1)
    assert list(first) == settings.perturbations and all(len(some) == 4 for some in first.values())
    fewer = Robustness.model_validate({"rate": 0.3, "perturbations": ["blanks"]})
    assert variants.variants(examples[:2], "classification", fewer, 1)["blanks"] == first["blanks"][:2]
    other = variants.variants(examples, "classification", settings, 2)
    assert other["typos"] != first["typos"] and other["lower"] == first["lower"]
    same = variants.variants([examples[0]] * 2, "classification", settings, 1)["typos"]
    assert same[0] != same[1], "equal texts at other places have other luck"
    assert all(example["label"] == "a" for some in first.values() for example in some)


def test_what_is_to_be_said_is_left_alone() -> None:
    talk = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello there"}, {"role": "assistant", "content": "good day"}]  # fmt: skip
    made = variants.perturbed({"messages": talk}, "chat", changes("upper", 0))
    assert [message["content"] for message in made["messages"]] == ["be kind", "HELLO THERE", "good day"]
    pair = variants.perturbed({"input": "a b", "target": "a"}, "summarisation", changes("upper", 0))
    assert pair == {"input": "A B", "target": "a"}
    both = {"text": "one", "text_pair": "two", "label": "same"}
    assert variants.perturbed(both, "classification", changes("upper", 0)) == {"text": "ONE", "text_pair": "TWO", "label": "same"}  # fmt: skip
    assert variants.told(both, "classification") == "one | two"
    assert variants.told({"messages": talk}, "chat") == "be kind hello there good day"


def test_every_field_that_is_read_is_one_of_its_task() -> None:
    for name, read in variants.READ.items():
        if name in TASKS:
            known = {field.name for field in (*TASKS[name].FIELDS, *fields.EXCHANGE)}
            assert set(read) <= known, name


def test_a_rate_is_a_share_of_the_words() -> None:
    text = " ".join(["lovely"] * 100)
    for rate, wanted in ((0.1, 10), (0.3, 30), (0.001, 1)):
        made = changes("punctuation", 0, rate)(text, "text")
        assert len(made) == wanted
    slipped = applied(text, changes("typos", 0, 0.2)(text, "text")).split()
    assert sum(word != "lovely" for word in slipped) == 20 and all(re.fullmatch("l.*y", word) for word in slipped)
