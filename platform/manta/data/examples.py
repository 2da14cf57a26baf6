"""Supervised pairs out of documents: the input a model reads and the target it should write."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest

Pair = tuple[str, str]  # (input, target)

# A heading that `documents.docstrings` writes for a class or function.
_HEADING = re.compile(r"^## `(?:class|def|async def) .+`$", re.MULTILINE)
_ANY_HEADING = re.compile(r"^##? `.+`$", re.MULTILINE)
TARGET_CHARS = (15, 120)
INPUT_CHARS = (80, 2000)


def docstring_summary(text: str) -> Iterator[Pair]:
    """(body, first line) of each class's and function's docstring that has both, as PEP 257 wants them.

    The first line must be a sentence (several words, no signature, no doctest), with an empty line after it and a body
    of prose under it that does not repeat it.
    """
    headings = list(_ANY_HEADING.finditer(text))
    for here, following in zip_longest(headings, headings[1:]):
        if _HEADING.match(here.group()):
            docstring = text[here.end() : following.start() if following else len(text)].strip()
            summary, gap, body = docstring.partition("\n\n")
            summary, body = summary.strip(), body.strip()
            if gap and _is_sentence(summary) and _is_prose(body) and summary.rstrip(".") not in body:
                yield body, summary


def _is_sentence(line: str) -> bool:
    short, long = TARGET_CHARS
    fits = short <= len(line) <= long and len(line.split()) >= 3
    return fits and "\n" not in line and not re.search(r"->|>>>|^\W|^[\w.]+\(|:$", line)


def _is_prose(body: str) -> bool:
    short, long = INPUT_CHARS
    return short <= len(body) <= long and sum(map(str.isalpha, body)) >= 0.5 * len("".join(body.split()))


EXTRACTORS: dict[str, Callable[[str], Iterator[Pair]]] = {"docstring_summary": docstring_summary}


def unique(pairs: Iterable[Pair], seen: set[bytes]) -> Iterator[Pair]:
    """The pairs of which neither input nor target was seen before; `seen` is added to (16 bytes an entry).

    Called for the training documents first and then, with the same `seen`, for the validation documents, it leaves
    no validation pair that a training pair gives away.
    """
    for pair in pairs:
        keys = {hashlib.blake2b(" ".join(side.split()).encode(), digest_size=16).digest() for side in pair}
        if not keys & seen:
            seen |= keys
            yield pair
