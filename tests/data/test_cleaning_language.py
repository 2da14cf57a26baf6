"""Languages as CLD2 tells them, and as a source states them."""

from __future__ import annotations

import pytest

from manta.data import cleaning
from manta.data.cleaning import Batch
from manta.sections.prepare import LanguageId

ENGLISH = "The harbour was quiet in the morning, and nobody thought that the ship would ever come back to the town. "
GERMAN = "Der Hafen war am Morgen still, und niemand glaubte, dass das Schiff jemals in die Stadt zurückkehren würde. "
CHINESE = "早晨的港口非常安静，没有人相信那艘船还会回到这座城市。"
TRADITIONAL = "早晨的港口非常安靜，沒有人相信那艘船還會回到這座城市，我們都覺得很難過。"
HEBREW = "הנמל היה שקט בבוקר ואיש לא האמין שהספינה תחזור אי פעם אל העיר הישנה שלנו."
NOTHING = "1234 5678 == 90\n" * 5


def judge(texts: list[str], stated: str = "", **settings: object) -> cleaning.Outcome:
    chosen = LanguageId.model_validate({"step": "language", "keep": ["en", "zh"], **settings})
    return cleaning.apply(Batch(texts, [stated] * len(texts)), [chosen])


def test_the_language_is_told_and_judged() -> None:
    outcome = judge([ENGLISH, GERMAN, CHINESE * 2, TRADITIONAL, HEBREW, NOTHING])
    assert outcome.languages == ["en", "de", "zh", "zh", "he", ""]
    assert outcome.reasons == [None, "language.keep", None, None, "language.keep", "language.unknown"]


def test_unknown_ones_are_kept_on_request() -> None:
    assert judge([NOTHING, "", ENGLISH], unknown="keep").reasons == [None, None, None]


@pytest.mark.parametrize(("first", "second"), [(ENGLISH, GERMAN), (CHINESE * 3, GERMAN * 2)])
def test_enough_of_the_text_must_be_in_it(first: str, second: str) -> None:
    both = first * 3 + "\n" + second
    assert judge([both], min_share=0.5).reasons == [None]
    assert judge([both], min_share=0.9).reasons == ["language.keep"]


def test_a_stated_language_is_believed() -> None:
    outcome = judge([GERMAN, NOTHING], stated="en")
    assert (outcome.languages, outcome.reasons) == (["en", "en"], [None, None])
    assert judge([ENGLISH], stated="de").reasons == ["language.keep"]


def test_characters_that_cld2_refuses_do_no_harm() -> None:
    refused = "".join(map(chr, (0x0, 0xB, 0x1F, 0x7F, 0x9F, 0xFDD0, 0xFFFE, 0x1FFFF, 0x10FFFF)))
    assert judge([refused + ENGLISH + refused, refused]).languages == ["en", ""]
