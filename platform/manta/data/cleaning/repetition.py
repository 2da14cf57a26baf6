"""Repetition inside one document: lines, paragraphs and n-grams that occur again (Gopher, arXiv:2112.11446, table A1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from manta.data.cleaning.batch import Batch, Outcome, judged
from manta.data.cleaning.words import is_unspaced, tokens
from manta.sections.prepare import GopherRepetition

LINE_ENDS = re.compile(r"\n+")
PARAGRAPH_ENDS = re.compile(r"\n(?:[ \t]*\n)+")
FIRST_TOP, FIRST_DUPLICATE = 2, 5  # the n of the first of each of the two lists of limits


def gopher_repetition(batch: Batch, settings: GopherRepetition) -> Outcome:
    """Drop texts that repeat themselves. Punctuation marks are words of an n-gram; an empty text repeats nothing."""
    return judged(batch, (_judge(*pair, settings) for pair in zip(batch.texts, batch.languages, strict=True)))


def _judge(text: str, language: str, settings: GopherRepetition) -> str | None:
    if not text.strip():
        return None
    rule = _lines(text, settings) or _ngrams(text, language, settings)
    return rule and f"gopher_repetition.{rule}"


def _lines(text: str, settings: GopherRepetition) -> str | None:
    lines, paragraphs = LINE_ENDS.split(text), PARAGRAPH_ENDS.split(text.strip())
    again, chars = duplicates(lines)
    if again > settings.max_duplicate_lines * len(lines):
        return "max_duplicate_lines"
    paragraphs_again, paragraph_chars = duplicates(paragraphs)
    if paragraphs_again > settings.max_duplicate_paragraphs * len(paragraphs):
        return "max_duplicate_paragraphs"
    if chars > settings.max_duplicate_line_chars * len(text):
        return "max_duplicate_line_chars"
    if paragraph_chars > settings.max_duplicate_paragraph_chars * len(text):
        return "max_duplicate_paragraph_chars"
    return None


def duplicates(pieces: Iterable[str]) -> tuple[int, int]:
    """How many pieces repeat an earlier one, and their characters."""
    seen: set[str] = set()
    count = chars = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            chars += len(piece)
        else:
            seen.add(piece)
    return count, chars


def _ngrams(text: str, language: str, settings: GopherRepetition) -> str | None:
    import numpy as np

    top = dict(enumerate(settings.max_top_ngram_chars, start=FIRST_TOP))
    duplicate = dict(enumerate(settings.max_duplicate_ngram_chars, start=FIRST_DUPLICATE))
    found = tokens(text, language)
    ends = np.zeros(len(found) + 1, dtype=np.int64)  # characters before each token, spaces not counted
    np.cumsum(np.fromiter(map(len, found), dtype=np.int64, count=len(found)), out=ends[1:])
    space = 0 if is_unspaced(text, language) else 1
    for n, (starts, kinds) in enumerate(_repeated(found, max((*top, *duplicate), default=1)), start=2):
        if n in top and _top_chars(starts, kinds, ends, n, space) > top[n] * len(text):
            return "max_top_ngram_chars"
        if n in duplicate and _duplicate_chars(starts, kinds, ends, n) > duplicate[n] * len(text):
            return "max_duplicate_ngram_chars"
    return None


def _repeated(found: list[str], longest: int) -> Iterator[tuple[Any, Any]]:
    """For n = 2, 3, ..., `longest`: the n-grams that occur more than once, until there are none.

    Yields where they start, int64 (occurrences,) in ascending order, and a number for each one's kind, int64
    (occurrences,). An n-gram can only occur again where its first n - 1 words do, so there is less to look at with every
    n; sorting these costs O(words log words) at most.
    """
    import numpy as np

    number = {word: i for i, word in enumerate(dict.fromkeys(found))}
    ids = np.fromiter(map(number.__getitem__, found), dtype=np.int64, count=len(found))
    starts, kinds = np.arange(len(ids)), ids
    for n in range(2, longest + 1):
        fitting = starts <= len(ids) - n
        starts, kinds = starts[fitting], kinds[fitting]
        # Both factors are below 2^31: the product tells every pair apart.
        _, kinds, counts = np.unique(kinds * len(number) + ids[starts + n - 1], return_inverse=True, return_counts=True)
        again = counts[kinds] > 1
        starts, kinds = starts[again], kinds[again]
        if not len(starts):
            return
        yield starts, kinds


def _top_chars(starts: Any, kinds: Any, ends: Any, n: int, space: int) -> int:
    """Characters of all occurrences of the commonest n-gram; of equally common ones the first in the text counts."""
    import numpy as np

    counts = np.bincount(kinds)
    start = starts[np.argmax(counts[kinds] == counts.max())]
    return int(counts.max() * (ends[start + n] - ends[start] + space * (n - 1)))


def _duplicate_chars(starts: Any, kinds: Any, ends: Any, n: int) -> int:
    """Characters of n-grams that occurred before; after one the search goes on behind it, so none counts twice."""
    seen: set[int] = set()
    chars = free = 0
    for start, kind, size in zip(
        starts.tolist(), kinds.tolist(), (ends[starts + n] - ends[starts]).tolist(), strict=True
    ):
        if start < free:
            continue
        if kind in seen:
            chars += size
            free = start + n
        else:
            seen.add(kind)
    return chars
