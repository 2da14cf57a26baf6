"""Slips of the keyboard: letters beside the right one, swapped, left out, put in; of Chinese also homophones and widths."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from manta.data.augment.job import Job, one_by_one, picked, portion
from manta.data.cleaning.words import UNSPACED, is_unspaced
from manta.sections.augment import Characters

# Four letters or more. Addresses, paths, tags and identifiers are left alone: nobody reads through a slip in them.
WORD = re.compile(r"(?<![\w@/\\.<&#$])[^\W\d_]{4,}(?![\w@/\\>=(]|[.:][\w/])")
KEYBOARDS = (("qwertyuiop", "asdfghjkl", "zxcvbnm"), ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"))
STAGGER = (0.0, 0.25, 0.75)  # of a key's width, by which the rows stand apart
# The 3,755 commonest characters of Chinese stand in GB 2312 in the order of their pinyin.
LEVEL_1 = (range(0xB0, 0xD8), range(0xA1, 0xFF))
# What gets a slip of its own: a character, or for the width a number, a Latin word or a mark.
UNIT = re.compile(rf"{UNSPACED.pattern}|(?P<width>[0-9A-Za-z]+|[０-９Ａ-Ｚａ-ｚ]+|[!-~！-～])")
FULL, HALF = range(0xFF01, 0xFF5F), range(0x21, 0x7F)
OTHER_WIDTH = dict(zip([*FULL, *HALF], [*HALF, *FULL], strict=True))


@one_by_one
def characters(job: Job, settings: Characters, generator: Any, _where: str) -> str:
    """Give a share of the words (of scripts without spaces: of the characters) one slip each."""
    change = _characters if is_unspaced(job.text, job.language) else _words
    return change(job.text, settings, generator)


# --- scripts with spaces ---------------------------------------------------------------------------------------------


def _words(text: str, settings: Characters, generator: Any) -> str:
    edits = [EDITS[name] for name in settings.edits if name in EDITS]
    found = list(WORD.finditer(text)) if edits else []
    pieces, end = [], 0
    for number in picked(generator, len(found), portion(settings.rate, len(found))):
        match = found[number]
        edit = edits[int(generator.integers(len(edits)))]
        pieces += [text[end : match.start()], edit(match.group(), generator)]
        end = match.end()
    return "".join([*pieces, text[end:]])


def _inner(word: str, generator: Any) -> int:
    """The place of a letter that is neither the first nor the last."""
    return 1 + int(generator.integers(len(word) - 2))


def _neighbour(word: str, generator: Any) -> str:
    at = _inner(word, generator)
    return word[:at] + _beside(word[at], generator) + word[at + 1 :]


def _swap(word: str, generator: Any) -> str:
    places = [at for at in range(1, len(word) - 2) if word[at] != word[at + 1]]
    if not places:
        return word
    at = places[int(generator.integers(len(places)))]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _delete(word: str, generator: Any) -> str:
    at = _inner(word, generator)
    return word[:at] + word[at + 1 :]


def _insert(word: str, generator: Any) -> str:
    at = _inner(word, generator)
    return word[:at] + _beside(word[at], generator)[:1] + word[at:]


EDITS: dict[str, Callable[[str, Any], str]] = {
    "neighbour": _neighbour,
    "swap": _swap,
    "delete": _delete,
    "insert": _insert,
}


def _beside(letter: str, generator: Any) -> str:
    """A letter of a key beside, in the same case; of letters on neither keyboard the letter twice."""
    keys = neighbours().get(letter.lower())
    if not keys:
        return letter * 2
    key = keys[int(generator.integers(len(keys)))]
    return key.upper() if letter.isupper() else key


@functools.cache
def neighbours() -> dict[str, str]:
    """letter -> the letters on keys that touch its own, lower case."""
    found: dict[str, str] = {}
    for rows in KEYBOARDS:
        places = {key: (x + STAGGER[y], y) for y, row in enumerate(rows) for x, key in enumerate(row)}
        for key, (x, y) in places.items():
            near = (o for o, (ox, oy) in places.items() if o != key and abs(ox - x) <= 1 and abs(oy - y) <= 1)
            found[key] = "".join(near)
    return found


# --- scripts without spaces ------------------------------------------------------------------------------------------


def _characters(text: str, settings: Characters, generator: Any) -> str:
    units = [match for match in UNIT.finditer(text) if match.lastgroup in (None, *settings.edits)]
    pieces, end = [], 0
    for number in picked(generator, len(units), portion(settings.rate, len(units))):
        start, stop = units[number].span()
        if start < end:  # it was swapped
            continue
        unit, following = text[start:stop], text[stop : stop + 1]
        possible = ["width"] if units[number].lastgroup else _possible(unit, following, settings)
        if not possible:
            continue
        edit = possible[int(generator.integers(len(possible)))]
        pieces += [text[end:start], _edited(edit, unit, following, generator)]
        end = stop + 1 if edit == "swap" else stop
    return "".join([*pieces, text[end:]])


def _possible(char: str, following: str, settings: Characters) -> list[str]:
    """The edits that can be made to a character where it stands."""
    swappable = bool(UNSPACED.match(following)) and following != char
    fits = {"neighbour": char in homophones(), "swap": swappable, "delete": True, "insert": True, "width": False}
    return [name for name in settings.edits if fits[name]]


def _edited(edit: str, unit: str, following: str, generator: Any) -> str:
    if edit == "neighbour":
        near = homophones()[unit]
        return near[int(generator.integers(len(near)))]
    if edit == "width":
        return unit.translate(OTHER_WIDTH)
    return {"swap": following + unit, "delete": "", "insert": unit * 2}[edit]


@functools.cache
def homophones() -> dict[str, str]:
    """Chinese character -> those beside it in the order of pinyin: most have the same sound, the others a near one."""
    rows, columns = LEVEL_1
    ordered = b"".join(bytes((row, column)) for row in rows for column in columns).decode("gb2312", "ignore")
    return {char: ordered[max(at - 1, 0) : at] + ordered[at + 1 : at + 2] for at, char in enumerate(ordered)}
