"""The rules of Gopher, C4 and FineWeb: for each an English and a Chinese document that breaks it and nothing else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import TypeAdapter

from manta.data import cleaning
from manta.data.cleaning import Batch, stopwords, words
from manta.data.cleaning.quality import sentences
from manta.data.cleaning.repetition import duplicates
from manta.sections.prepare import Step

VOCABULARY = {
    "en": "river mountain teacher garden window letter market station evening kitchen harbour village student doctor "
    "painter bridge winter summer journey question answer picture music paper silver forest island captain morning "
    "crosses follows remembers describes visits watches carries builds finds leaves opens paints quietly slowly often "
    "never the of and to with that behind under above near between green heavy bright distant narrow ancient",
    "zh": "河流 高山 老师 花园 窗户 书信 市场 车站 傍晚 厨房 港口 村庄 学生 医生 画家 大桥 冬天 夏天 旅行 问题 答案 图片 "
    "音乐 报纸 森林 海岛 船长 早晨 经过 跟随 记得 描写 访问 观看 运送 建造 发现 离开 打开 绘画 安静 缓慢 经常 从来 的 了 在 "
    "和 是 后面 下面 上面 附近 中间 绿色 沉重 明亮 遥远 狭窄 古老",
}
SPACE, END = {"en": " ", "zh": ""}, {"en": ".", "zh": "。"}
STOPS = {lang: stopwords.STOP_WORDS[lang] for lang in VOCABULARY}


def sentence(lang: str, draw: random.Random, size: int = 12, stops: bool = True) -> str:
    """Words drawn at random, without the mark at the end."""
    known = [word for word in VOCABULARY[lang].split() if stops or word not in STOPS[lang]]
    return SPACE[lang].join(draw.choices(known, k=size))


def lines(lang: str, number: int = 14, seed: int = 0, end: str | None = None, **how: Any) -> list[str]:
    draw = random.Random(f"{lang} {seed}")
    return [sentence(lang, draw, **how) + (END[lang] if end is None else end) for _ in range(number)]


def prose(lang: str, number: int = 14, **how: Any) -> str:
    return "\n".join(lines(lang, number, **how))


def mixed(lang: str, often: int, extra: list[str], joint: str = "\n") -> str:
    """Prose with `extra` put in, one after every `often` lines."""
    found = []
    for i, piece in enumerate(extra):
        found += [*lines(lang, often, seed=i + 1), piece]
    return joint.join(found)


def numbers(lang: str, share: int) -> str:
    """Prose of which one word in `share` is a number."""
    draw = random.Random(5)
    return "\n".join(
        " ".join([sentence(lang, draw, share - 1), str(draw.randint(100, 999)), sentence(lang, draw, share - 1),
                  str(draw.randint(100, 999))]) + END[lang]
        for _ in range(20)
    )  # fmt: skip


def around(lang: str, phrase: str) -> str:
    """The phrase again and again, with other words between."""
    draw = random.Random(6)
    return "\n".join(SPACE[lang].join((sentence(lang, draw, 3), phrase, sentence(lang, draw, 3))) for _ in range(30))


def with_duplicates(lang: str) -> str:
    """Five runs of eleven words stand twice each, all else once."""
    runs = lines(lang, 5, seed=8, end="", size=11)
    halves = [SPACE[lang].join((run, text)) for run, text in zip(runs * 2, lines(lang, 10, seed=9), strict=True)]
    return "\n".join(halves)


LONG = ["Elektrizitaetsversorgungsgesellschaft", "Donaudampfschifffahrtsgesellschaft", "Rindfleischetikettierungsgesetz",
        "Kraftfahrzeughaftpflichtversicherung", "Rechtsschutzversicherungsgesellschaft", "Betaeubungsmittelverordnung"]  # fmt: skip
FEW = {"en": "Hear {}.", "zh": "是{}。"}
YES, PAIR = {"en": "Yes.", "zh": "好。"}, {"en": "purple elephant", "zh": "紫色大象"}
# step -> rule -> (the settings of its step, the document in each language, the setting that lets it through)
PLANTED: dict[str, dict[str, tuple[dict[str, Any], Any, Any]]] = {
    "gopher_quality": {
        "min_words": ({}, lambda lang: prose(lang, 3), 0),
        "max_words": ({"max_words": 200}, lambda lang: prose(lang, 30), 100_000),
        "max_mean_word_length": (
            {},
            lambda lang: "\n".join(f"{LONG[i % 6]} {LONG[i % 5]}{line}" for i, line in enumerate(lines(lang, 40, size=4))),
            50,
        ),
        "max_symbol_ratio": (
            {},
            lambda lang: prose(lang, end=" " + {"en": "##", "zh": "######"}[lang]),
            1.0,
        ),
        "max_bullet_lines": ({}, lambda lang: "\n".join("• " + line for line in lines(lang)), 1.0),
        "max_ellipsis_lines": (
            {},
            lambda lang: "\n".join([*lines(lang, 8), *lines(lang, 6, 1, end={"en": "...", "zh": "……"}[lang])]),
            1.0,
        ),
        "min_alphabetic_words": ({}, lambda lang: numbers(lang, 3), 0.0),
        "min_stop_words": ({}, lambda lang: prose(lang, stops=False), 0),
    },
    "gopher_repetition": {
        "max_duplicate_lines": ({}, lambda lang: mixed(lang, 2, [YES[lang]] * 25), 1.0),
        "max_duplicate_paragraphs": (
            {},
            lambda lang: "\n\n".join(
                piece for i in range(12) for piece in ("\n".join(lines(lang, 3, seed=i)), YES[lang])[: 1 + i % 2 + i // 6]
            ),
            1.0,
        ),
        "max_duplicate_line_chars": (
            {},
            lambda lang: mixed(lang, {"en": 1, "zh": 2}[lang], [FEW[lang].format(word * {"en": 3, "zh": 2}[lang]) for word in LONG] * 2),
            1.0,
        ),
        "max_duplicate_paragraph_chars": (
            {"max_duplicate_line_chars": 1.0},
            lambda lang: mixed(
                lang, {"en": 1, "zh": 2}[lang], [FEW[lang].format(word * {"en": 3, "zh": 2}[lang]) for word in LONG] * 2, "\n\n"
            ),
            1.0,
        ),
        "max_top_ngram_chars": ({}, lambda lang: around(lang, PAIR[lang]), [1.0]),
        "max_duplicate_ngram_chars": ({}, with_duplicates, []),
    },
    "c4_quality": {
        "min_sentences": ({}, lambda lang: prose(lang, 4), 0),
        "drop_lorem_ipsum": ({}, lambda lang: prose(lang) + f"\nLorem ipsum dolor sit amet{END[lang]}", False),
        "drop_curly_bracket": ({}, lambda lang: prose(lang) + f"\n{sentence(lang, random.Random(1))} {{}}{END[lang]}", False),
    },
    "fineweb_quality": {
        "min_punctuated_lines": ({}, lambda lang: prose(lang, end=""), 0.0),
        "max_short_lines": ({}, lambda lang: prose(lang, 60, size=4), 1.0),
        "max_duplicate_line_chars": ({}, lambda lang: "\n".join([*lines(lang), lines(lang)[3]]), 1.0),
        "max_newlines_per_word": ({}, lambda lang: "\n\n\n\n\n".join(lines(lang)), 9.0),
    },
}  # fmt: skip
RULES = [(step, rule) for step, rules in PLANTED.items() for rule in rules]


def apply(lang: str, texts: list[str], step: str, **settings: Any) -> cleaning.Outcome:
    chosen = TypeAdapter(list[Step]).validate_python([{"step": step, **settings}])
    return cleaning.apply(Batch(texts, [lang] * len(texts)), chosen)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(("step", "rule"), RULES)
def test_a_planted_document_breaks_its_rule_and_no_other(step: str, rule: str, lang: str) -> None:
    settings, plant, loose = PLANTED[step][rule]
    good, planted = prose(lang), plant(lang)
    assert apply(lang, [good, planted, good], step, **settings).reasons == [None, f"{step}.{rule}", None]
    assert apply(lang, [planted], step, **{**settings, rule: loose}).reasons == [None], "no other rule drops it"


def test_every_rule_that_drops_is_planted() -> None:
    removing = {"end_punctuation", "min_words_per_line", "remove_javascript", "remove_policy"}
    aside = {"step", "short_line", "min_mean_word_length", *removing}
    for step, rules in PLANTED.items():
        schema = TypeAdapter(Step).json_schema()
        name = schema["discriminator"]["mapping"][step].rpartition("/")[2]
        assert set(schema["$defs"][name]["properties"]) - aside == set(rules)


def test_short_words_are_a_fault_where_words_have_letters_not_in_chinese() -> None:
    short = "it is to be or a b of x. " * 20
    assert apply("en", [short], "gopher_quality").reasons == ["gopher_quality.min_mean_word_length"]
    assert apply("en", [short], "gopher_quality", min_mean_word_length=1).reasons == [None]
    single = "人 在 山 上 看 水 的 花 了 ，" * 10
    assert apply("zh", [single, single], "gopher_quality", min_mean_word_length=5).reasons == [None, None]


def test_stop_words_are_those_of_the_language() -> None:
    german = "Der Hund und die Katze gehen nicht in das Haus. " * 10
    assert apply("de", [german], "gopher_quality").reasons == [None]
    assert apply("en", [german], "gopher_quality").reasons == ["gopher_quality.min_stop_words"]
    assert apply("", [german], "gopher_quality").reasons == [None], "no language told: any list will do"
    assert apply("fi", [german], "gopher_quality").reasons == [None], "there is no list"


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(
    ("setting", "off", "english", "chinese"),
    [
        ("end_punctuation", False, "A heading of five words", "一个没有句号的标题行"),
        ("end_punctuation", False, "This sentence was cut off in the...", "这一句话没有说完就被截断了…"),
        ("min_words_per_line", 0, "Too short.", "太短。"),
        ("remove_javascript", False, "Please turn JavaScript on to read this.", "请打开您的 JavaScript 以便阅读本页。"),
        ("remove_policy", False, "See our Privacy Policy for what we keep.", "请阅读我们的隐私政策了解更多内容。"),
    ],
)
def test_c4_removes_the_planted_line(setting: str, off: Any, english: str, chinese: str, lang: str) -> None:
    line = english if lang == "en" else chinese
    kept = lines(lang)
    planted = "\n".join([*kept[:3], "  " + line, *kept[3:]])
    outcome = apply(lang, [planted], "c4_quality")
    assert (outcome.texts, outcome.reasons) == (["\n".join(kept)], [None])
    assert line in apply(lang, [planted], "c4_quality", **{setting: off}).texts[0].split("\n")


def test_sentences_are_counted_in_both_scripts() -> None:
    assert sentences('He said "No." Then he left (at 3.5 km, e.g. by car). Why? Because') == 4
    assert sentences("他说：“不行。”然后走了！为什么？因为……") == 4
    assert sentences("no mark") == 1


def test_a_quoted_sentence_and_a_doubled_ellipsis_end_a_line() -> None:
    ending = ["他说：“我们明天一起去公园。”", "她慢慢走进了那个古老的花园……", 'He said: "We are going home now."']
    text = "\n".join(ending)
    assert apply("", [text], "c4_quality", min_sentences=0).texts == [text]
    assert apply("zh", ["\n".join(ending * 1)], "fineweb_quality", min_punctuated_lines=1.0).reasons == [None]


def test_duplicate_ngrams_do_not_count_a_character_twice() -> None:
    same = "one two three four five six seven eight nine ten. " * 2
    limits = {"max_top_ngram_chars": [], "max_duplicate_ngram_chars": [0.41], "max_duplicate_lines": 1.0}
    # 100 characters, of which the second ten words and their mark, 40 without spaces, stand in 5-grams seen before: two
    # whole ones fit, of 19 and 20 characters; overlapping ones would make 7 of them.
    assert apply("en", [same], "gopher_repetition", **limits).reasons == [None]
    limits["max_duplicate_ngram_chars"] = [0.38]
    assert apply("en", [same], "gopher_repetition", **limits).reasons == ["gopher_repetition.max_duplicate_ngram_chars"]


def test_ngram_counts_match_counting_by_hand() -> None:
    draw = random.Random(3)
    for _ in range(30):
        found = draw.choices(["a", "bb", "ccc", "d"], k=60)
        for n in (5, 6, 7):
            chars = _by_hand(found, n)
            limits = [1.0] * (n - 5) + [(chars + 0.5) / len(" ".join(found))]
            text = " ".join(found)
            loose = {"max_top_ngram_chars": [], "max_duplicate_ngram_chars": limits}
            assert apply("en", [text], "gopher_repetition", **loose).reasons == [None]
            if chars:
                limits[-1] = (chars - 0.5) / len(text)
                assert apply("en", [text], "gopher_repetition", **loose).reasons != [None]


def _by_hand(found: list[str], n: int) -> int:
    seen, chars, i = set(), 0, 0
    while i + n <= len(found):
        gram = tuple(found[i : i + n])
        if gram in seen:
            chars, i = chars + sum(map(len, gram)), i + n
        else:
            seen.add(gram)
            i += 1
    return chars


def test_a_long_repetitive_text_is_judged_at_once() -> None:
    text = " ".join(f"word{i % 5000}" for i in range(50_000))
    limits = {"max_top_ngram_chars": [1.0] * 3, "max_duplicate_ngram_chars": [1.0] * 6}
    assert apply("en", [text], "gopher_repetition", **limits).reasons == [None]


def test_duplicates_count_from_the_second_on() -> None:
    assert duplicates(["aa", "b", "aa", "aa"]) == (2, 4)
    assert duplicates([]) == (0, 0)


def test_nothing_is_divided_by_nothing() -> None:
    for step in PLANTED:
        least = {"gopher_quality": {"min_words": 0, "min_stop_words": 0}, "c4_quality": {"min_sentences": 0}}.get(
            step, {}
        )
        assert apply("", [""], step, **least).reasons == [None]


def test_tokens_hold_marks_where_words_do_not() -> None:
    text = "See https://a.org/b?c=1, e.g. f(x)=a -- don't, well-known and/or 3.5."
    assert words.tokens(text) == [
        "See", "https://a.org/b?c=1", ",", "e.g.", "f(x)=a", "--", "don", "'t", ",", "well", "-", "known",
        "and", "/", "or", "3.5", ".",
    ]  # fmt: skip
    assert words.tokens("我们学习中文，好吗？ = 3") == ["我们", "学习", "中文", "好", "吗", "=", "3"]
