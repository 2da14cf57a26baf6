"""The quality rules of Gopher, C4 and FineWeb, for scripts with and without spaces."""

from __future__ import annotations

import re
from collections import Counter

from manta.data.cleaning import stopwords
from manta.data.cleaning.batch import Batch, Outcome, judged
from manta.data.cleaning.repetition import duplicates
from manta.data.cleaning.words import UNSPACED, is_unspaced, tokens, words
from manta.sections.prepare import C4Quality, FineWebQuality, GopherQuality

LETTER = re.compile(r"[^\W\d_]")
BULLETS = ("•", "-", "*", "·", "‣", "◦", "▪", "●", "■", "○", "–")
# Marks that end a sentence in the scripts that have their own, and what may close behind them.
TERMINAL = (*".!?", *"。！？…．｡", *"؟۔।॥։።။។")
QUOTES = "\"'”’」』"
# A mark that ends a sentence, with what closes behind it, before a space or the end; East Asian ones need neither. A
# point after a single letter (e.g., U.S., J. Smith) ends none.
SENTENCE = re.compile(r"(?:(?<!\b\w)\.|[!?؟۔।॥։።။។])+[\"'”’»)\]]*(?:\s|$)|[。！？｡…]+[”’」』）]*")
POLICY = re.compile(
    "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
    "|使用条款|使用條款|服务条款|服務條款|隐私政策|隱私政策|隐私权政策|隱私權政策|隐私声明|使用 ?cookie|cookie ?政策"
)


# --- Gopher ----------------------------------------------------------------------------------------------------------


def gopher_quality(batch: Batch, settings: GopherQuality) -> Outcome:
    """Drop texts by their words and by how their lines begin and end.

    A word is a token that begins with a letter or digit. Where a rule speaks of a share of all words (symbols,
    alphabetic words), punctuation marks count as words too: see `words.tokens`.
    """
    return judged(batch, (_gopher(*pair, settings) for pair in zip(batch.texts, batch.languages, strict=True)))


def _gopher(text: str, language: str, settings: GopherQuality) -> str | None:
    found = Counter(tokens(text, language))
    rule = _gopher_words(found, is_unspaced(text, language), settings) or _gopher_lines(text, found.total(), settings)
    if rule is None:
        lettered = sum(count for word, count in found.items() if word.isalpha() or LETTER.search(word))
        if lettered < settings.min_alphabetic_words * found.total():
            rule = "min_alphabetic_words"
        else:
            stops = stopwords.count(found, language)
            rule = "min_stop_words" if stops is not None and stops < settings.min_stop_words else None
    return rule and f"gopher_quality.{rule}"


def _gopher_words(found: Counter[str], unspaced: bool, settings: GopherQuality) -> str | None:
    number = chars = 0
    for word, count in found.items():
        if word[0].isalnum():
            number += count
            chars += count * len(word)
    if number < settings.min_words:
        return "min_words"
    if number > settings.max_words:
        return "max_words"
    if chars < number * (min(1, settings.min_mean_word_length) if unspaced else settings.min_mean_word_length):
        return "min_mean_word_length"
    return "max_mean_word_length" if chars > number * settings.max_mean_word_length else None


def _gopher_lines(text: str, number: int, settings: GopherQuality) -> str | None:
    # The Chinese ellipsis is two characters.
    ellipses = text.count("...") + text.count("…") - text.count("……")
    if max(text.count("#"), ellipses) > settings.max_symbol_ratio * number:
        return "max_symbol_ratio"
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if sum(line.startswith(BULLETS) for line in lines) > settings.max_bullet_lines * len(lines):
        return "max_bullet_lines"
    if sum(line.endswith(("...", "…")) for line in lines) > settings.max_ellipsis_lines * len(lines):
        return "max_ellipsis_lines"
    return None


# --- C4 --------------------------------------------------------------------------------------------------------------


def c4_quality(batch: Batch, settings: C4Quality) -> Outcome:
    """Remove lines that are no sentences or that pages repeat, then drop the texts of which too little is left."""
    texts, reasons = [], []
    for text, language in zip(batch.texts, batch.languages, strict=True):
        unspaced = is_unspaced(text, language)
        lines = [line for line in map(str.strip, text.splitlines()) if _is_c4_line(line, language, unspaced, settings)]
        texts.append("\n".join(lines))
        reasons.append(_c4(lines, settings))
    return Outcome(texts, batch.languages, reasons)


def _is_c4_line(line: str, language: str, unspaced: bool, settings: C4Quality) -> bool:
    if settings.end_punctuation and not _ends(line):
        return False
    least = settings.min_words_per_line
    if len(line.split()) < least and not (unspaced and len(words(line, language)) >= least):
        return False
    lower = line.lower()
    if settings.remove_javascript and "javascript" in lower:
        return False
    return not (settings.remove_policy and POLICY.search(lower))


def _ends(line: str) -> bool:
    """Whether a sentence ends here. Three dots show a line that was cut off; doubled (……) they are a Chinese mark."""
    return (
        line.endswith((*TERMINAL, *QUOTES))
        and not line.endswith("...")
        and (not line.endswith("…") or line.endswith("……"))
    )


def _c4(lines: list[str], settings: C4Quality) -> str | None:
    if settings.drop_lorem_ipsum and any("lorem ipsum" in line.lower() for line in lines):
        return "c4_quality.drop_lorem_ipsum"
    if settings.drop_curly_bracket and any("{" in line for line in lines):
        return "c4_quality.drop_curly_bracket"
    number = 0
    for line in lines:
        if number >= settings.min_sentences:
            break
        number += sentences(line)
    return "c4_quality.min_sentences" if number < settings.min_sentences else None


def sentences(line: str) -> int:
    """How many sentences a line that is not empty holds; what stands behind the last mark is one too."""
    ends = [found.end() for found in SENTENCE.finditer(line)]
    return len(ends) + (not ends or ends[-1] < len(line))


# --- FineWeb ---------------------------------------------------------------------------------------------------------


def fineweb_quality(batch: Batch, settings: FineWebQuality) -> Outcome:
    """Drop texts that look like lists: by how their lines end, how long they are and how often they repeat."""
    return judged(batch, (_fineweb(*pair, settings) for pair in zip(batch.texts, batch.languages, strict=True)))


def _fineweb(text: str, language: str, settings: FineWebQuality) -> str | None:
    lines = [line for line in map(str.rstrip, text.splitlines()) if line]
    rule = _fineweb_lines(lines, is_unspaced(text, language), settings)
    if rule is None and text.count("\n") > settings.max_newlines_per_word * len(tokens(text, language)):
        rule = "max_newlines_per_word"
    return rule and f"fineweb_quality.{rule}"


def _fineweb_lines(lines: list[str], unspaced: bool, settings: FineWebQuality) -> str | None:
    if sum(line.rstrip(QUOTES).endswith(TERMINAL) for line in lines) < settings.min_punctuated_lines * len(lines):
        return "min_punctuated_lines"
    # A line of Chinese says as much as one of English that is twice as long.
    width = [len(line) + len(UNSPACED.findall(line)) if unspaced else len(line) for line in lines]
    if sum(chars <= settings.short_line for chars in width) > settings.max_short_lines * len(lines):
        return "max_short_lines"
    if duplicates(lines)[1] > settings.max_duplicate_line_chars * sum(map(len, lines)):
        return "max_duplicate_line_chars"
    return None
