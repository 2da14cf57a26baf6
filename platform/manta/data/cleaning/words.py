"""What a word is: split at spaces and punctuation, or by a segmenter for scripts that write none."""

from __future__ import annotations

import functools
import re

# Han, kana, Thai, Lao, Khmer, Burmese: written without spaces between words.
UNSPACED_LANGUAGES = frozenset(("zh", "ja", "th", "lo", "km", "my"))
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
WORD = re.compile(r"\w+(?:['’.-]\w+)*")
# What a run of letters and digits may be joined to the next by: anything but these. Marks between letters (and/or,
# well-known, f(x)=a), hyphens between digits (2020-01-02), a sentence that begins without a space, rows of dots or
# dashes, endings such as 's.
_ENDING = r"['’](?:s|t|ll|re|ve|d|m)\b"
_PARTS = (
    r"(?<=[^\W_])[:<>=/](?=[^\W\d_])|(?<=[^\W\d_])[,\-–—~](?=[^\W\d_])|(?<=\d)[-+*^](?=\d)|(?<=[a-z])\.(?=[A-Z])"
    rf"|\.\.+|--+|{_ENDING}"
)
TOKEN = re.compile(
    r"(?:https?|ftp)://[^\s<>\"'`]*[^\W_]/?"  # an address
    r"|(?:[^\W\d_]\.){2,}"  # e.g., U.S.
    rf"|[^\W_]+(?:(?:(?!{_PARTS})(?:[^\w\s]|_))+[^\W_]+)*"
    rf"|{_ENDING}"
    r"|\):|\.\.+|[-~^|/\\@.]+"  # rows of marks that are one; "):" is a face to spaCy, and ends many a signature
    r"|[^\w\s]|_"
)
# Marks of East Asian writing, of which there is one for about five words.
MARKS = frozenset("，。、；：？！“”‘’「」『』《》〈〉【】〔〕（）…—～·,.;:?!\"'()")
REMEMBERED = 256  # texts, a batch of them: several steps ask for the words of each


def is_unspaced(text: str, language: str = "") -> bool:
    """Whether words are not set apart by spaces: by its language, or by a fifth of a sample of its letters."""
    if language:
        return language in UNSPACED_LANGUAGES
    sample = text[:2000]
    if sample.isascii():
        return False
    found = len(UNSPACED.findall(sample))
    return found > 0 and found > 0.2 * sum(map(str.isalpha, sample))


def words(text: str, language: str = "") -> list[str]:
    """The words of a text, punctuation left out."""
    if is_unspaced(text, language):
        return [word for word in _segmented(text).split("\n") if WORD.match(word)]
    return WORD.findall(text)


def tokens(text: str, language: str = "") -> list[str]:
    """The words of a text and its punctuation marks, in order; of scripts without spaces only what is no plain mark.

    This is close to spaCy's English tokenizer, with which datatrove applies the rules of Gopher and FineWeb. Chinese
    has more marks for each (short) word: with them, good prose would miss Gopher's share of alphabetic words.
    """
    if is_unspaced(text, language):
        return [token for token in _segmented(text).split("\n") if token and token not in MARKS]
    return TOKEN.findall(text)


@functools.lru_cache(REMEMBERED)
def _segmented(text: str) -> str:
    """The pieces that the segmenter finds but for white space, one a line: a tenth of the memory of a list."""
    import rjieba

    return "\n".join(piece for piece in rjieba.cut(text) if not piece.isspace())
