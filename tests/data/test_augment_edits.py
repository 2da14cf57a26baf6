"""Slips of the keyboard and words swapped or deleted: how much changes, what stays, in English and Chinese."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.data.augment import characters, spans, words
from manta.data.augment.job import Job, entropy
from manta.sections.augment import Characters, Words

ENGLISH = (
    "Every morning the quiet harbour smells of bread, because the bakers start their work long before the first ships "
    "leave. See https://example.com/quiet/harbour.html or mail someone@example.com about `harbour_name` and </strong>.\n\n"
    "Nobody thought that these vessels would ever return! Their captains, however, never doubted it: patience wins.\n"
)
PROTECTED = ("https://example.com/quiet/harbour.html", "someone@example.com", "harbour_name", "</strong>")
CHINESE = "早晨的港口非常安静，因为面包师在第一批船离开之前很久就开始工作了。没有人相信这些船会在2024年回到Python城！\n船长们却从来没有怀疑过。"
WORD = re.compile(r"[^\W\d_]+")


def changed(family: Callable[..., Any], text: str, settings: Any, number: int = 0, language: str = "") -> str:
    [made] = family([Job(0, number, text, language, entropy(0, b"0" * 16, "kind", number))], settings, "data.augment.0")
    assert made.fault == ""
    return str(made.text)


def slips(text: str, number: int = 0, **more: Any) -> str:
    return changed(characters.characters, text, Characters(augment="characters", **more), number)


def moved(text: str, number: int = 0, **more: Any) -> str:
    return changed(words.words, text, Words(augment="words", **more), number)


def pairs(text: str, other: str) -> list[tuple[str, str]]:
    """(before, after) of the words that changed; slips move no word."""
    before, after = WORD.findall(text), WORD.findall(other)
    assert len(before) == len(after)
    return [(x, y) for x, y in zip(before, after, strict=True) if x != y]


# --- characters, scripts with spaces ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.3, 1.0])
def test_the_rate_is_that_of_the_words(rate: float) -> None:
    eligible = len(characters.WORD.findall(ENGLISH))
    assert eligible == 33
    other = slips(ENGLISH, rate=rate, edits=["delete"])
    assert len(pairs(ENGLISH, other)) == round(rate * eligible)
    assert len(ENGLISH) - len(other) == round(rate * eligible)


@pytest.mark.parametrize("edit", ["neighbour", "swap", "delete", "insert"])
def test_each_slip_is_what_it_says(edit: str) -> None:
    length = {"neighbour": 0, "swap": 0, "delete": -1, "insert": 1}[edit]
    found = [pair for number in range(5) for pair in pairs(ENGLISH, slips(ENGLISH, number, rate=0.5, edits=[edit]))]
    assert len(found) > 60
    for before, after in found:
        assert len(after) - len(before) == length
        assert (before[0], before[-1]) == (after[0], after[-1]), "the first and the last letter stay"
        lost, won = Counter(before) - Counter(after), Counter(after) - Counter(before)
        if edit == "swap":
            assert not lost and not won
        if edit == "delete":
            assert sum(lost.values()) == 1 and not won
        if edit == "insert":
            assert sum(won.values()) == 1 and not lost
        if edit == "neighbour":
            [wrong], [right] = won, lost
            assert wrong in characters.neighbours()[right]


def test_addresses_names_and_tags_stay() -> None:
    other = slips(ENGLISH, rate=1.0)
    assert all(part in other for part in PROTECTED)
    assert re.sub(WORD, "", other) == re.sub(WORD, "", ENGLISH), "marks and spaces stay"


def test_keys_that_touch_are_neighbours() -> None:
    near = {key: set(letters) for key, letters in characters.neighbours().items()}
    assert near["q"] == {"w", "a"}
    assert near["g"] == {"f", "h", "t", "y", "v", "b"}
    assert near["ф"] == {"й", "ц", "ы", "я"}
    assert all(key in near[other] for key, letters in near.items() for other in letters)


def test_case_is_kept_and_foreign_letters_are_doubled() -> None:
    assert slips("HARBOUR", rate=1.0, edits=["neighbour"]).isupper()
    greek = "θάλασσα"
    assert len(slips(greek, rate=1.0, edits=["neighbour"])) == len(greek) + 1
    assert slips("Привет", rate=1.0, edits=["neighbour"]) != "Привет"


def test_short_words_have_no_slip_and_short_texts_have_one() -> None:
    assert slips("the cat sat on a mat", rate=1.0) == "the cat sat on a mat"
    assert len(pairs("one harbour", slips("one harbour", rate=0.01))) == 1


# --- characters, scripts without spaces ------------------------------------------------------------------------------


def test_chinese_characters_are_swapped_deleted_doubled() -> None:
    eligible = len(re.findall("[\u4e00-\u9fff]", CHINESE))
    shorter = slips(CHINESE, rate=0.2, edits=["delete"])
    assert len(CHINESE) - len(shorter) == round(0.2 * eligible)
    assert len(slips(CHINESE, rate=0.2, edits=["insert"])) - len(CHINESE) == round(0.2 * eligible)
    swapped = slips(CHINESE, rate=0.2, edits=["swap"])
    assert swapped != CHINESE
    assert Counter(swapped) == Counter(CHINESE)
    assert [at for at, char in enumerate(swapped) if char in "，。！\n"] == [
        at for at, char in enumerate(CHINESE) if char in "，。！\n"
    ], "nothing is swapped across a mark"


def test_chinese_characters_have_homophones() -> None:
    near = characters.homophones()
    assert len(near) == 3755
    assert set(near["安"]) <= set("鞍氨俺按暗岸胺案")
    assert {"鞍", "俺"} == set(near["氨"]) or "安" in near["氨"]
    other = slips(CHINESE, rate=0.3, edits=["neighbour"])
    differing = [(x, y) for x, y in zip(CHINESE, other, strict=True) if x != y]
    assert len(differing) == round(0.3 * len(re.findall("[\u4e00-\u9fff]", CHINESE)))
    assert all(y in near[x] for x, y in differing)


def test_widths_change_and_nothing_else() -> None:
    other = slips(CHINESE, rate=1.0, edits=["width"])
    assert "２０２４年" in other and "Ｐｙｔｈｏｎ城" in other and "安静,因为" in other
    assert slips(other, rate=1.0, edits=["width"]) == CHINESE
    assert slips(ENGLISH, rate=1.0, edits=["width"]) == ENGLISH, "not of scripts with spaces"


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_swaps_keep_every_word_in_its_sentence(text: str) -> None:
    other = moved(text, swap=0.5, delete=0.0)
    assert other != text
    ends = r"[!！。\n]"
    sentences = [Counter(part) for part in re.split(ends, text)]
    assert [Counter(part) for part in re.split(ends, other)] == sentences


def test_a_word_is_swapped_with_another() -> None:
    assert {moved("one two", n, swap=0.1, delete=0.0) for n in range(20)} == {"two one"}
    assert moved("One. Two. Three.", swap=1.0, delete=0.0) == "One. Two. Three.", "each is a sentence"


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_the_rate_is_that_of_the_deleted_words(rate: float) -> None:
    for text in (ENGLISH, CHINESE):
        before, _ = spans.apart(text, "")
        after, _ = spans.apart(moved(text, swap=0.0, delete=rate), "")
        if text is ENGLISH:
            assert len(after) == len(before) - round(rate * len(before))
            assert not Counter(after) - Counter(before)
        else:  # the segmenter may see other words where two have become neighbours
            assert len("".join(after)) < len("".join(before))


def test_a_deleted_word_takes_one_space_along() -> None:
    assert {moved("one two", n, swap=0.0, delete=0.5) for n in range(9)} == {"one", "two"}
    assert {moved("A big dog.\n  Ran (home).", n, swap=0.0, delete=0.01) for n in range(40)} == {
        "big dog.\n  Ran (home).",
        "A dog.\n  Ran (home).",
        "A big.\n  Ran (home).",
        "A big dog.\n  (home).",
        "A big dog.\n  Ran ().",
    }


def test_never_all_words_are_deleted() -> None:
    assert moved("word", delete=1.0) == "word"
    assert len(moved("one two three", swap=0.0, delete=1.0).split()) == 1


def test_addresses_are_one_word() -> None:
    found, gaps = spans.apart(ENGLISH, "")
    assert {"https://example.com/quiet/harbour.html", "someone@example.com", "harbour_name"} <= set(found)
    assert spans.together(found, gaps) == ENGLISH


@given(st.text(max_size=200), st.sampled_from(["", "en", "zh", "ja"]))
def test_apart_and_together_is_the_text(text: str, language: str) -> None:
    found, gaps = spans.apart(text, language)
    assert len(gaps) == len(found) + 1
    assert spans.together(found, gaps) == text


@given(st.text(max_size=200), st.sampled_from(["", "en", "zh"]), st.integers(0, 9))
def test_no_text_is_too_odd(text: str, language: str, number: int) -> None:
    changed(characters.characters, text, Characters(augment="characters", rate=0.5), number, language)
    changed(words.words, text, Words(augment="words", swap=0.5, delete=0.5), number, language)
