"""A corpus of which it is known what every step does with every document: clean prose, and what breaks just one rule."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.data import prose
from tests.data.prose import END, JOINT, paragraphs

# Every step there is, in one order. The limits leave room between rules that mean nearly the same.
STEPS: list[dict[str, Any]] = [
    {"step": "normalise", "repair": True},
    {"step": "markup"},
    {"step": "language", "keep": ["en", "zh"]},
    {"step": "length", "min_chars": 60, "max_chars": 3000, "min_words": 20, "max_words": 400},
    {"step": "letters"},
    {"step": "repeated_lines"},
    {"step": "gopher_quality", "max_words": 320},
    {"step": "gopher_repetition", "max_duplicate_paragraph_chars": 0.1},
    {"step": "fineweb_quality", "max_duplicate_line_chars": 0.05},
    {"step": "c4_quality"},
    {"step": "pii", "kinds": ["email", "ip"]},
    {"step": "pii", "kinds": ["phone", "card", "iban", "cn_id"], "action": "drop"},
    {"step": "line_dedup"},
    {"step": "exact_dedup"},
    {"step": "near_dedup"},
    {"step": "decontaminate"},
]


class Planted(NamedTuple):
    """A document and what becomes of it."""

    text: str
    reason: str | None = None  # the rule under which it is dropped, None: it stays
    becomes: str = ""  # the text that is left of it, if it stays
    first: int = -1  # of a repeated document: the number of the one that stays in its place
    stated: str = ""  # the language that its source has to state


# --- clean -----------------------------------------------------------------------------------------------------------


def clean(lang: str) -> Iterator[Planted]:
    """Documents that all steps let pass; some of them lose what they have too much of."""
    for number in range(24):
        lines = paragraphs(lang, number, 4 + number % 4, 2 if number % 4 else 3)
        oddity = prose.ODDITIES[lang][number % len(prose.ODDITIES[lang])]
        lines[number % 4] += JOINT[lang] + oddity
        # Each of the six shared lines in four documents.
        shared = [*lines[:2], prose.SHARED[lang][number // 4], *lines[2:]]
        yield Planted(("\n\n" if number % 3 else "\n").join(shared), None, "\n".join(lines))
    for number in range(24, 40):
        lines = paragraphs(lang, number)
        yield Planted("\n".join(lines), None, "\n".join(lines))
    for number, change in enumerate(CHANGES[lang]):
        lines = paragraphs(lang, f"changed {number}")
        yield Planted("\n".join(change(lines)), None, "\n".join(lines))
    for number, (found, left) in enumerate(REPLACED[lang]):
        lines = paragraphs(lang, f"replaced {number}")
        yield Planted("\n".join([*lines, found]), None, "\n".join([*lines, left]))


def _inserted(line: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:3], line, *lines[3:]]


# What normalise, markup and c4_quality take away without a trace.
CHANGES: dict[str, list[Callable[[list[str]], list[str]]]] = {
    "en": [
        lambda lines: [line.replace("the", "t\u200bhe\u00ad", 1) + " \t\r" for line in lines],
        lambda lines: ["\ufeff" + lines[0], *lines[1:], "", ""],
        lambda lines: ["<div><p>" + "</p><p>".join(lines) + "</p></div><script>if (a) { b(); }</script><!-- end -->"],
        lambda lines: [line.replace(" a ", " <b>a</b> ").replace(" the ", "&#32;the ") for line in lines],
        _inserted("Share this on Facebook"),
        _inserted("Home | About us | News | Contact"),
        _inserted("Copyright (c) 2021 The Archive"),
        _inserted("A heading of five words"),
        _inserted("Please turn JavaScript on, or you will miss the best of it."),
        _inserted("Read our privacy policy before you go on with this text."),
    ],
    "zh": [
        lambda lines: [line.replace("的", "\u200b的\u2060", 1) + "\u3000\r" for line in lines],
        lambda lines: ["\ufeff" + lines[0], *lines[1:], "", ""],
        lambda lines: ["<div><p>" + "</p><p>".join(lines) + "</p></div><script>if (a) { b(); }</script><!-- 完 -->"],
        lambda lines: [line.replace("的", "<b>的</b>").replace("，", "&#65292;") for line in lines],
        _inserted("分享到微信朋友圈"),
        _inserted("首页 | 新闻 | 关于我们 | 联系我们"),
        _inserted("版权所有 2021 市档案馆"),
        _inserted("一个没有句号的标题"),
        _inserted("请打开浏览器的 JavaScript 功能以便阅读本页的全部内容。"),
        _inserted("继续阅读之前，请先仔细阅读本网站的隐私政策。"),
    ],
}
# What normalise repairs and pii replaces: (line before, line after).
REPLACED = {
    "en": [
        ("The cafÃ© was closed, but the garden behind it was not.", "The café was closed, but the garden behind it was not."),
        ("The cafe\u0301 was open, and so was the garden behind it.", "The café was open, and so was the garden behind it."),
        ("Whoever has questions may write to anna.b+letters@mail.example.org.", "Whoever has questions may write to <email>."),
        ("The attack came from 93.184.216.34 and from no other place.", "The attack came from <ip> and from no other place."),
    ],
    "zh": [
        ("咖啡馆cafÃ©已经关门，后面的花园却还开着。", "咖啡馆café已经关门，后面的花园却还开着。"),
        ("咖啡馆cafe\u0301还开着门，后面的花园也还开着。", "咖啡馆café还开着门，后面的花园也还开着。"),
        ("如有问题，请写信给chen.fang@mail.example.cn，我们会尽快答复。", "如有问题，请写信给<email>，我们会尽快答复。"),
        ("这次攻击来自93.184.216.34，没有发现其他来源。", "这次攻击来自<ip>，没有发现其他来源。"),
    ],
}  # fmt: skip

# --- what breaks a rule ----------------------------------------------------------------------------------------------


def spiked(lang: str, seed: str, spike: Callable[[random.Random], str], every: int, number: int = 6) -> str:
    """Prose with something put in after every so many words; of Chinese, after every so many characters."""
    draw = random.Random(seed)
    found = []
    for line in paragraphs(lang, seed, number):
        pieces = line.split() if lang == "en" else list(line)
        parts = [pieces[start : start + every] for start in range(0, len(pieces), every)]
        found.append(JOINT[lang].join(piece for part in parts for piece in (*part[:-1], spike(draw), part[-1])))
    return "\n".join(found)


def joined(lang: str, seed: str, number: int, size: int = 1, joint: str = "\n", more: tuple[str, ...] = ()) -> str:
    return joint.join([*paragraphs(lang, seed, number, size), *more])


def repeated(lang: str, seed: str, numbers: list[int], joint: str = "\n") -> str:
    """Lines of one sentence, the first of four, and of each its number of times."""
    lines = paragraphs(lang, seed, 13, 1)
    lines[:4] = [JOINT[lang].join(lines[:4])]
    return joint.join(lines[number] for number in numbers)


def identifiers(seed: str) -> str:
    """Chinese about very long names."""
    names = [word.strip(",.").lower() for word in prose.LONG_WORDS.split() if len(word) > 8]
    draw = random.Random(seed)
    return "\n".join("模块 {}{} 的 {}{}。".format(*draw.sample(names, 4)) for _ in range(16))


def rerun(lang: str, seed: str) -> str:
    """Four sentences twice, each time before another one."""
    runs, rest = paragraphs(lang, seed, 4, 1), paragraphs(lang, seed + " rest", 8, 1)
    return "\n".join(
        run.rstrip(".。") + {"en": ", ", "zh": "，"}[lang] + end for run, end in zip(runs * 2, rest, strict=True)
    )


YES = {"en": "Yes.", "zh": "好。"}
PAIR = {"en": "purple elephant", "zh": "紫色大象"}
CUT = {"en": "...", "zh": "……"}
BRIEF = {"en": "It was late, and she went home.", "zh": "天已经黑了，她一个人走回了家。"}
LOREM = {
    "en": "Lorem ipsum dolor sit amet is what stood on the wall.",
    "zh": "墙上写着 Lorem ipsum dolor sit amet 几个字。",
}
CURLY = {"en": "The set {1, 2} has two members and one end.", "zh": "集合{1, 2}有两个元素，也只有一个结尾。"}
PERSONAL = {
    "phone": {"en": "Call her at +44 20 7946 0958 after six.", "zh": "请在六点以后拨打13812345678联系她。"},
    "card": {"en": "It was paid with the card 4111 1111 1111 1111 at noon.", "zh": "他用卡号为6222020200112233446的卡付了钱。"},
    "iban": {"en": "The rent goes to DE89 3704 0044 0532 0130 00 each May.", "zh": "房租每月汇到账户DE89370400440532013000。"},
    "cn_id": {"en": "His number at the office was 11010519491231002X then.", "zh": "他的身份证号码是11010519491231002X。"},
}  # fmt: skip


def personal(kind: str) -> Callable[[str, str], str]:
    return lambda lang, seed: joined(lang, seed, 6, 2, more=(PERSONAL[kind][lang],))


# rule -> the text that breaks it, of a language and a seed
BREAKS: dict[str, Callable[[str, str], str]] = {
    "language.keep": lambda lang, seed: prose.GERMAN,
    "language.unknown": lambda lang, seed: prose.NO_TONGUE,
    "length.min_chars": lambda lang, seed: BRIEF[lang],
    "length.max_chars": lambda lang, seed: "\n".join(joined(lang, f"{seed} {n}", 15, 2) for n in range({"en": 2, "zh": 4}[lang])),
    "length.min_words": lambda lang, seed: prose.VERY_FEW_WORDS[lang],
    "length.max_words": lambda lang, seed: joined(lang, seed, 10, 3),
    "letters.min_fraction": lambda lang, seed: spiked(lang, seed, lambda draw: f"k{draw.randrange(10**8, 10**9)}", {"en": 1, "zh": 6}[lang], 4),
    "repeated_lines.max_fraction": lambda lang, seed: repeated(lang, seed, [*range(1, 6), *[1] * 7]),
    "gopher_quality.min_words": lambda lang, seed: prose.FEW_WORDS[lang],
    "gopher_quality.max_words": lambda lang, seed: joined(lang, seed, 11, 2),
    "gopher_quality.min_mean_word_length": lambda lang, seed: prose.SHORT_WORDS,
    "gopher_quality.max_mean_word_length": lambda lang, seed: prose.LONG_WORDS if lang == "en" else identifiers(seed),
    "gopher_quality.max_symbol_ratio": lambda lang, seed: spiked(lang, seed, lambda draw: "#", 5),
    "gopher_quality.max_bullet_lines": lambda lang, seed: "• " + joined(lang, seed, 12, joint="\n• "),
    "gopher_quality.max_ellipsis_lines": lambda lang, seed: joined(
        lang, seed, 12, more=tuple(line.rstrip(".。") + CUT[lang] for line in paragraphs(lang, seed + " cut", 6, 1))
    ),
    "gopher_quality.min_alphabetic_words": lambda lang, seed: spiked(lang, seed, lambda draw: str(draw.randrange(10, 99)), {"en": 3, "zh": 5}[lang]),
    "gopher_quality.min_stop_words": lambda lang, seed: prose.NO_STOP_WORDS[lang],
    "gopher_repetition.max_duplicate_lines": lambda lang, seed: joined(lang, seed, 12, more=(YES[lang],) * 8),
    "gopher_repetition.max_duplicate_paragraphs": lambda lang, seed: "\n\n".join(
        [joined(lang, seed, 6, joint="\n"), *[YES[lang]] * 5, *(joined(lang, f"{seed} {n}", 3) for n in range(2))]
    ),
    "gopher_repetition.max_duplicate_line_chars": lambda lang, seed: repeated(lang, seed, [*range(9), 0]),
    "gopher_repetition.max_duplicate_paragraph_chars": lambda lang, seed: repeated(lang, seed, [*range(1, 10), 1, 2], "\n\n"),
    "gopher_repetition.max_top_ngram_chars": lambda lang, seed: spiked(lang, seed, lambda draw: PAIR[lang], {"en": 4, "zh": 8}[lang]),
    "gopher_repetition.max_duplicate_ngram_chars": rerun,
    "fineweb_quality.min_punctuated_lines": lambda lang, seed: "\n".join(
        [*(line.rstrip(".。") for line in paragraphs(lang, seed, 10, 1)), *paragraphs(lang, seed + " end", 1, 6)]
    ),
    "fineweb_quality.max_short_lines": lambda lang, seed: "\n".join(prose.SHORT_LINES[lang]),
    "fineweb_quality.max_duplicate_line_chars": lambda lang, seed: repeated(lang, seed, [*range(1, 9), 1]),
    "fineweb_quality.max_newlines_per_word": lambda lang, seed: joined(lang, seed, 12, joint="\n" * 10),
    "c4_quality.min_sentences": lambda lang, seed: joined(lang, seed, 4),
    "c4_quality.drop_lorem_ipsum": lambda lang, seed: joined(lang, seed, 6, 2, more=(LOREM[lang],)),
    "c4_quality.drop_curly_bracket": lambda lang, seed: joined(lang, seed, 6, 2, more=(CURLY[lang],)),
    **{f"pii.{kind}": personal(kind) for kind in PERSONAL},
    "line_dedup.nothing_left": lambda lang, seed: "\n".join(prose.SHARED[lang]),
    "decontaminate.ngram": lambda lang, seed: joined(lang, seed, 6, 2, more=(prose.QUESTIONS[lang] + END[lang],)),
}  # fmt: skip
# What a document has to break besides, for it forbids nearly the same.
ALSO: dict[str, set[str]] = {
    "language.unknown": {"gopher_quality"},
    "length.min_chars": {"gopher_quality", "fineweb_quality", "c4_quality"},
    **{f"length.{rule}": {"gopher_quality"} for rule in ("max_chars", "min_words", "max_words")},
    "repeated_lines.max_fraction": {"gopher_repetition", "fineweb_quality"},
    "gopher_repetition.max_duplicate_line_chars": {"fineweb_quality"},
    "gopher_repetition.max_duplicate_paragraph_chars": {"fineweb_quality"},
}
# A Chinese word may have a single character: none is too short.
NEVER = {"en": set[str](), "zh": {"gopher_quality.min_mean_word_length"}}
# Of these nobody can tell that they are Chinese: their source has to say so.
STATED = {"en": set[str](), "zh": {"gopher_quality.max_mean_word_length"}}


def breaking(lang: str) -> list[Planted]:
    """For each rule on single documents one that breaks it and no other."""
    return [
        Planted(make(lang, rule), rule, stated=lang if rule in STATED[lang] else "")
        for rule, make in BREAKS.items()
        if rule not in NEVER[lang]
    ]


def twins(lang: str, of: list[Planted]) -> list[Planted]:
    """Repetitions of clean documents: three with other white space, three with another word (character)."""
    found = []
    for first, (number, planted) in zip(
        range(6), ((n, p) for n, p in enumerate(of) if p.text == p.becomes), strict=False
    ):
        if first < 3:
            found.append(Planted(planted.text.replace("\n", " "), "exact_dedup", first=number))
        else:
            words = planted.text.split(" ") if lang == "en" else list(planted.text)
            words[100] = {"en": "whatever", "zh": "某"}[lang]
            found.append(Planted(JOINT[lang].join(words), "near_dedup", first=number))
    return found
