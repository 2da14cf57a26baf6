"""Variants as a whole: who is chosen, that neighbours do not matter, what is left out, joins, and recipes that contradict themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from manta.data import augment, dedup
from manta.data.augment import Variant
from manta.sections.augment import Augmentation

ADJECTIVES = ("old", "red", "slow", "grey", "long", "proud", "small", "empty", "heavy", "silent")
ENGLISH = [f"The {word} ship left the quiet harbour and never came back home." for word in ADJECTIVES]
CHINESE = [f"第{n}艘船早晨离开了安静的港口，没有人相信它还会回到这座城市。" for n in "一二三四五六七八九十"]
TEXTS = [text for pair in zip(ENGLISH, CHINESE, strict=True) for text in pair]
PER_DOCUMENT: list[dict[str, Any]] = [
    {"augment": "characters", "share": 0.6, "rate": 0.2, "copies": 2},
    {"augment": "words", "share": 0.5},
    {"augment": "characters", "share": 0.5, "rate": 0.1},
]


def settings(*raw: dict[str, Any]) -> list[Augmentation]:
    return TypeAdapter(list[Augmentation]).validate_python(list(raw))


def made(
    texts: list[str], raw: list[dict[str, Any]], seed: int = 0, counted: Counter[str] | None = None
) -> list[Variant]:
    digests = [dedup.digest(text) for text in texts]
    return list(augment.variants(texts, [""] * len(texts), digests, settings(*raw), seed, counted))


def by_text(texts: list[str], found: list[Variant]) -> set[tuple[str, str, int, str]]:
    return {(texts[v.document], v.kind, v.number, v.text) for v in found}


@pytest.mark.parametrize("cuts", [[7], [1, 2, 3], list(range(1, len(TEXTS)))])
def test_any_split_of_a_unit_gives_the_same_variants(cuts: list[int]) -> None:
    whole = by_text(TEXTS, made(TEXTS, PER_DOCUMENT))
    assert len(whole) > 20
    parts = [TEXTS[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    assert set().union(*(by_text(part, made(part, PER_DOCUMENT)) for part in parts)) == whole
    assert by_text(TEXTS[::-1], made(TEXTS[::-1], PER_DOCUMENT)) == whole


def test_the_seed_decides() -> None:
    assert made(TEXTS, PER_DOCUMENT, seed=1) == made(TEXTS, PER_DOCUMENT, seed=1)
    assert by_text(TEXTS, made(TEXTS, PER_DOCUMENT, seed=1)) != by_text(TEXTS, made(TEXTS, PER_DOCUMENT, seed=2))


def test_each_document_has_luck_of_its_own() -> None:
    found = made(ENGLISH, [{"augment": "words", "share": 1.0, "swap": 0.0, "delete": 0.05}])
    gone = {
        next(at for at, word in enumerate(ENGLISH[v.document].split()) if word not in v.text.split()) for v in found
    }
    assert len(gone) > 2, "texts of as many words do not all lose the same one"


def test_the_share_of_documents_is_chosen_by_hash() -> None:
    many = [f"A harbour with {n} ships lies behind the mountains." for n in range(2000)]
    few = {v.document for v in made(many, [{"augment": "words", "share": 0.25}])}
    more = {v.document for v in made(many, [{"augment": "words", "share": 0.5}])}
    assert 430 < len(few) < 570  # three standard deviations of a binomial around 500
    assert 920 < len(more) < 1080
    assert few < more, "a larger share begins with the documents of a smaller one"
    other = {v.document for v in made(many, [{"augment": "characters", "share": 0.25}])}
    assert 80 < len(few & other) < 175, "kinds choose independently: about 125 in common"


def test_copies_are_numbered_and_differ() -> None:
    found = made(
        TEXTS, [{"augment": "words", "share": 1.0, "copies": 3}, {"augment": "words", "share": 1.0, "swap": 0.0}]
    )
    assert {v.number for v in found} == {0, 1, 2, 3}, "a second augmentation of a kind goes on counting"
    assert len({(v.document, v.kind, v.number) for v in found}) == len(found)
    assert len({(v.document, v.text) for v in found}) == len(found)


def test_what_equals_the_document_or_an_earlier_variant_is_left_out() -> None:
    counted: Counter[str] = Counter()
    texts = ["one two", "a bc", "   \n"]  # one swap there is; no word of four letters; nothing at all
    swaps: dict[str, Any] = {"augment": "words", "share": 1.0, "copies": 5, "delete": 0.0}
    found = made(texts[:1], [swaps], counted=counted)
    assert [(v.document, v.text) for v in found] == [(0, "two one")]
    assert counted == {"words.unchanged": 4}
    assert made(texts[1:], [{"augment": "characters", "share": 1.0}], counted=counted) == []
    assert counted["characters.unchanged"] == 2


def test_only_documents_of_the_languages_are_changed() -> None:
    told = [TEXTS.index(text) for text in CHINESE]
    found = made(TEXTS, [{"augment": "characters", "share": 1.0, "languages": ["zh"]}])
    assert {v.document for v in found} == set(told), "nobody told their language: CLD2 does"
    stated = augment.variants(
        TEXTS[:2], ["fr", "fr"], [dedup.digest(t) for t in TEXTS[:2]], settings({"augment": "words", "share": 1.0, "languages": ["fr"]}), 0
    )  # fmt: skip
    assert {v.document for v in stated} == {0, 1}, "a stated language is believed"


# --- concatenate -----------------------------------------------------------------------------------------------------


def test_documents_are_joined_with_the_next_of_their_language() -> None:
    counted: Counter[str] = Counter()
    joins = [{"augment": "concatenate", "share": 1.0, "documents": 3, "separator": "|"}]
    found = {v.document: v.text.split("|") for v in made(TEXTS[:12], joins, counted=counted)}
    assert found[0] == ENGLISH[:3]
    assert found[1] == CHINESE[:3]
    assert found[6] == ENGLISH[3:6]
    assert set(found) == set(range(8)), "the last two of each language have too few after them"
    assert counted == {"concatenate.alone": 4}


def test_a_second_join_takes_other_documents() -> None:
    found = made(ENGLISH[:4], [{"augment": "concatenate", "share": 1.0, "copies": 2, "separator": "|"}])
    assert [tuple(ENGLISH.index(text) for text in v.text.split("|")) for v in found] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (0, 2),
        (1, 3),
    ]


def test_only_chosen_documents_are_joined() -> None:
    chosen = {v.text.split("|")[0] for v in made(TEXTS, [{"augment": "concatenate", "share": 0.5, "separator": "|"}])}
    second = {v.text.split("|")[1] for v in made(TEXTS, [{"augment": "concatenate", "share": 0.5, "separator": "|"}])}
    assert chosen
    assert len(chosen | second) < len(TEXTS)
    assert len(second - chosen) == 2, "but for the last one of each language, who comes second also comes first"


# --- recipes ---------------------------------------------------------------------------------------------------------

HERE = {"url": "http://localhost:8000/v1", "model": "m"}
PROMPT = "Rewrite: {text}"


@pytest.mark.parametrize(
    ("raw", "paths"),
    [
        ({"augment": "words", "swap": 0.0, "delete": 0.0}, ["swap"]),
        ({"augment": "words", "swap": 0.0}, []),
        ({"augment": "synonyms", "languages": ["zh"]}, ["path"]),
        ({"augment": "synonyms", "languages": ["zh"], "path": "words.tsv"}, []),
        ({"augment": "rewrite", "prompt": PROMPT}, ["model"]),
        ({"augment": "rewrite", "prompt": PROMPT, "model": "m", "endpoint": HERE}, ["model"]),
        ({"augment": "rewrite", "prompt": "Rewrite this.", "endpoint": HERE}, ["prompt"]),
        ({"augment": "rewrite", "prompt": PROMPT, "endpoint": HERE | {"api_key_env": "NO_SUCH_KEY"}}, ["endpoint.api_key_env"]),
        ({"augment": "rewrite", "prompt": PROMPT, "endpoint": HERE | {"api_key_env": "PATH"}}, []),
        ({"augment": "rewrite", "prompt": PROMPT, "model": "m", "copies": 2}, ["copies"]),
        ({"augment": "rewrite", "prompt": PROMPT, "model": "m", "copies": 2, "temperature": 0.7}, []),
        ({"augment": "back_translate", "there": {"model": "m"}, "back": {"prompt": "back"}}, ["back.model", "back.prompt"]),
        ({"augment": "back_translate", "there": {"model": "m"}, "back": {"model": "m"}, "copies": 2}, ["copies"]),
    ],
)  # fmt: skip
def test_contradictions_are_told_by_their_place(raw: dict[str, Any], paths: list[str]) -> None:
    found = list(augment.problems(settings({"augment": "words"}, raw)))
    assert [problem.path for problem in found] == [f"data.augment.1.{path}" for path in paths]
    assert all(problem.remedy for problem in found)


def test_synonyms_without_a_dictionary_need_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WNHOME", raising=False)
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.setattr("manta.data.augment.wordnet.DEBIAN", str(tmp_path))
    assert [p.path for p in augment.problems(settings({"augment": "synonyms"}))] == ["data.augment.0.path"]
    (tmp_path / "index.noun").touch()
    assert list(augment.problems(settings({"augment": "synonyms"}))) == []


@pytest.mark.parametrize(
    "raw", [{"rate": 0.0}, {"share": 0.0}, {"rate": 1.5}, {"edits": []}, {"edits": ["shuffle"]}, {"copies": 0}]
)
def test_the_schema_refuses_what_does_nothing(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings({"augment": "characters", **raw})


def test_every_kind_of_the_vocabulary_has_a_family() -> None:
    assert set(TypeAdapter(Augmentation).json_schema()["discriminator"]["mapping"]) == set(augment.FAMILIES)
