"""What a word is: split at spaces and punctuation, or by a segmenter for scripts that write none."""

from __future__ import annotations

import re

# Han, kana, Thai, Lao, Khmer, Burmese: written without spaces between words.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
WORD = re.compile(r"\w+(?:['’.-]\w+)*")


def is_unspaced(text: str, language: str = "") -> bool:
    """Whether words are not set apart by spaces: by its language, or by a fifth of a sample of its letters."""
    if language:
        return language in ("zh", "ja", "th", "lo", "km", "my")
    sample = text[:2000]
    letters = sum(map(str.isalpha, sample))
    return letters > 0 and len(UNSPACED.findall(sample)) > 0.2 * letters


def words(text: str, language: str = "") -> list[str]:
    """The words of a text, punctuation left out."""
    if is_unspaced(text, language):
        import rjieba

        return [word for word in rjieba.cut(text) if WORD.match(word)]
    return WORD.findall(text)
