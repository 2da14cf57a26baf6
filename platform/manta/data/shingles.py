"""Hashes of word n-grams, for many texts at once: each character's number through a table, sums in place of loops."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from manta.data.cleaning.words import UNSPACED

# Characters that are worked on at once: their arrays stay in a core's cache.
PIECE_CHARS = 1 << 17
# No letter stands at or above this code point, which is none itself (Unicode keeps it free).
LAST = 0x3FFFF
CHAR_BASE, WORD_BASE = 0x9E3779B97F4A7C13, 0xC2B2AE3D27D4EB4B  # odd, so that they have inverses modulo 2^64


def shingles(texts: Sequence[str], ngram: int) -> tuple[Any, Any]:
    """Hashes of the n-grams of each text: uint64 (num_shingles,), and int64 (num_texts + 1,): where each text's begin.

    Words are runs of letters, digits and marks, whatever their case; punctuation only sets them apart. A character of a
    script without spaces (Han, kana, Thai, ...) is a word of its own, in whatever text it stands. A text of fewer than
    `ngram` words has no shingle. Equal shingles within a text are not merged. Needs about 80 bytes of memory a
    character of the longest text.
    """
    return shingles_of_lengths(texts, (ngram,))[0]


def shingles_of_lengths(texts: Sequence[str], ngrams: Sequence[int]) -> list[tuple[Any, Any]]:
    """What `shingles` gives, for each of several lengths, with one look at the texts."""
    words = [_words(piece) for piece in _pieces(texts)]
    return [_joined([_windows(*piece, ngram) for piece in words]) for ngram in ngrams]


def _joined(found: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(offsets) for _, offsets in found)])
    return np.concatenate([np.zeros(0, np.uint64), *(hashes for hashes, _ in found)]), counts.cumsum()


def mix(values: Any) -> Any:
    """Spread each bit of uint64 values over all 64 (a bijection: different values stay different)."""
    values = values ^ (values >> np.uint64(32))
    values *= np.uint64(0xD6E8FEB86659FD93)
    values ^= values >> np.uint64(29)
    values *= np.uint64(0xA0761D6478BD642F)
    values ^= values >> np.uint64(32)
    return values


def _pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, cut where PIECE_CHARS are full."""
    start = chars = 0
    for end, text in enumerate(texts, 1):
        chars += len(text)
        if chars >= PIECE_CHARS:
            yield texts[start:end]
            start, chars = end, 0
    if start < len(texts):
        yield texts[start:]


def _words(texts: Sequence[str]) -> tuple[Any, Any]:
    """Hashes of all words: uint64 (num_words,), and int64 (num_texts + 1,): where each text's begin."""
    joined = "\n".join(texts)
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype="<u4").astype(np.intp)
    numbers = _numbers().take(codes, mode="clip")
    word = numbers > 0
    starts = word.copy()
    starts[1:] &= ~word[:-1]
    if not joined.isascii():
        alone = (numbers & np.uint64(1)).astype(bool)
        starts[1:] |= word[1:] & alone[:-1]
        starts |= alone
    begins = np.flatnonzero(starts)
    ends = np.cumsum([len(text) + 1 for text in texts])
    offsets = np.concatenate([np.zeros(1, np.int64), np.searchsorted(begins, ends)])
    if not len(begins):
        return np.zeros(0, np.uint64), offsets
    # A word reaches to where the next one begins: what stands between them counts nothing, its number is 0.
    powers, inverse = _powers(CHAR_BASE, len(codes))
    numbers *= powers[: len(codes)]
    sums = np.cumsum(numbers, out=numbers)
    upto = sums[np.append(begins[1:] - 1, -1)]
    return mix(np.diff(upto, prepend=np.uint64(0)) * inverse[begins]), offsets


def _windows(words: Any, offsets: Any, ngram: int) -> tuple[Any, Any]:
    """Hashes of `ngram` consecutive words of the same text, as differences of running sums."""
    lengths = np.diff(offsets)
    counts = np.maximum(lengths - ngram + 1, 0)
    starts = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    if len(words) < ngram:
        return np.zeros(0, np.uint64), starts
    powers, inverse = _powers(WORD_BASE, len(words))
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(words * powers[: len(words)], out=sums[1:])
    hashes = (sums[ngram:] - sums[:-ngram]) * inverse[: len(words) - ngram + 1]
    within = np.arange(ngram, len(words) + 1) <= np.repeat(offsets[1:], lengths)[: len(hashes)]
    return mix(hashes[within]), starts


@functools.cache
def _numbers() -> Any:
    """By code point, uint64: 0 of what is no word, even of a part of a word, odd of a word by itself.

    Letters that differ only in case share a number, where their folded form is one character.
    """
    numbers = np.zeros(LAST + 1, dtype=np.uint64)
    for code in range(LAST + 1):
        letter = chr(code)
        if unicodedata.category(letter)[0] in "LNM":
            folded = next(form for form in (letter.casefold(), letter.lower(), letter) if len(form) == 1)
            numbers[code] = 4 * ord(folded) + (3 if UNSPACED.match(letter) else 2)
    kind = numbers & np.uint64(1)
    mixed = mix(numbers) & ~np.uint64(1) | kind
    return np.where(numbers > 0, mixed, np.uint64(0))


def _powers(base: int, length: int) -> tuple[Any, Any]:
    """base^i and base^-i modulo 2^64, for i below `length` or more. Only those for usual lengths stay in memory."""
    return _usual_powers(base) if length <= 2 * PIECE_CHARS else _powers_below(base, length)


@functools.cache
def _usual_powers(base: int) -> tuple[Any, Any]:
    return _powers_below(base, 2 * PIECE_CHARS)


def _powers_below(base: int, length: int) -> tuple[Any, Any]:
    def upto(factor: int) -> Any:
        factors = np.full(length, factor, dtype=np.uint64)
        factors[0] = 1
        return np.cumprod(factors)

    return upto(base), upto(pow(base, -1, 1 << 64))
