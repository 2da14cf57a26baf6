"""Takes a text apart into its words and what stands between them, so that it can be put together again."""

from __future__ import annotations

import re

from manta.data.cleaning.words import is_unspaced, words

# Of scripts with spaces: addresses, paths and what else is written in one are one word.
WORD = re.compile(r"\w+(?:(?:['’.-]|[:/\\@?=&#%+~]+)\w+)*")
SENTENCE_END = re.compile(r"[.!?。！？；\n]")


def apart(text: str, language: str) -> tuple[list[str], list[str]]:
    """The words and the gaps: gap, word, gap, word, ..., gap are the text again. There is one gap more than words."""
    found: list[str] = []
    gaps: list[str] = []
    end = 0
    for start, word in _located(text, language):
        gaps.append(text[end:start])
        found.append(word)
        end = start + len(word)
    return found, [*gaps, text[end:]]


def together(found: list[str], gaps: list[str]) -> str:
    """The text of words and gaps; there is one gap more."""
    pieces = [piece for pair in zip(gaps, found, strict=False) for piece in pair]
    return "".join([*pieces, gaps[-1]])


def sentences(gaps: list[str]) -> list[tuple[int, int]]:
    """(first word, word after the last) of each sentence or line."""
    starts = [0, *(number for number, gap in enumerate(gaps[1:-1], 1) if SENTENCE_END.search(gap))]
    return list(zip(starts, [*starts[1:], len(gaps) - 1], strict=True))


def _located(text: str, language: str) -> list[tuple[int, str]]:
    if not is_unspaced(text, language):
        return [(match.start(), match.group()) for match in WORD.finditer(text)]
    located, at = [], 0
    for word in words(text, language):
        at = text.index(word, at)  # between two words the segmenter leaves marks and spaces, never letters
        located.append((at, word))
        at += len(word)
    return located
