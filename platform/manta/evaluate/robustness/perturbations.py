"""Changes that a reader hardly minds: slips of the keyboard, other capitals, marks and blanks, words that mean the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from manta.data.augment import spans, synonyms
from manta.data.augment.characters import EDITS, WORD, homophones
from manta.data.augment.dictionary import Dictionary
from manta.data.augment.job import picked, portion
from manta.data.cleaning.words import UNSPACED, is_unspaced
from manta.evaluate.robustness.edits import Edit, Span

# (text, rate, numpy's Generator) -> edits: the same for the same draw, whatever was perturbed before.
Perturb = Callable[[str, float, Any], list[Edit]]

MARK = re.compile(r"\s*([.,;:!?，。；：！？、]+)(?!\w)")  # not the one of 3.14
MARKS, WIDE_MARKS = ",;.", "，；。"
BLANK = re.compile(r"[ \t]+")
SPLIT_FROM = 4  # letters of a word that a blank is put into


# --- slips -----------------------------------------------------------------------------------------------------------


def typos(text: str, rate: float, generator: Any) -> list[Edit]:
    """One slip in a share of the words of four letters or more: the key beside, two letters swapped, one left out, one twice.

    The first and the last letter stay (Pruthi et al., arXiv:1905.11268). Of scripts without spaces a share of the
    characters; there the key beside is a character of the same sound.
    """
    if is_unspaced(text):
        return _slips(text, rate, generator)
    found = [(match.span(), match.group()) for match in WORD.finditer(text)]
    made = []
    for number in picked(generator, len(found), portion(rate, len(found))):
        span, word = found[number]
        slip = SLIPS[int(generator.integers(len(SLIPS)))]
        made.append(Edit(*span, slip(word, generator)))
    return _changing(text, made)


def doubled(word: str, generator: Any) -> str:
    """A word of four letters or more with one of those inside it written twice."""
    at = 1 + int(generator.integers(len(word) - 2))
    return word[:at] + word[at] + word[at:]


SLIPS: tuple[Callable[[str, Any], str], ...] = (EDITS["neighbour"], EDITS["swap"], EDITS["delete"], doubled)


def _slips(text: str, rate: float, generator: Any) -> list[Edit]:
    found = [match.start() for match in UNSPACED.finditer(text)]
    made: list[Edit] = []
    for number in picked(generator, len(found), portion(rate, len(found))):
        at = found[number]
        if made and at < made[-1].end:  # it was swapped
            continue
        char, behind = text[at], text[at + 1 : at + 2]
        near = homophones().get(char, "")
        other = near[int(generator.integers(len(near)))] if near else char * 2
        both = behind + char if UNSPACED.match(behind) else ""
        made.append(
            [
                Edit(at, at + 1, other),
                Edit(at, at + 2, both) if both else Edit(at, at + 1, char * 2),
                Edit(at, at + 1, ""),
                Edit(at, at + 1, char * 2),
            ][int(generator.integers(4))]
        )
    return _changing(text, made)


# --- capitals --------------------------------------------------------------------------------------------------------


def cased(change: Callable[[str], str], text: str, rate: float, generator: Any) -> list[Edit]:
    """Every word in other capitals; there is nothing to draw."""
    del rate, generator
    return _changing(text, [Edit(*span, change(text[slice(*span)])) for span in located(text)])


def titled(word: str) -> str:
    """The word with its first letter alone as a capital."""
    return word[:1].upper() + word[1:].lower()


# --- marks and blanks ------------------------------------------------------------------------------------------------


def punctuation(text: str, rate: float, generator: Any) -> list[Edit]:
    """Behind a share of the words: the mark that stands there left out or doubled; where there is none, one put in."""
    marks = WIDE_MARKS if is_unspaced(text) else MARKS
    made = []
    for start, end in _drawn(located(text), rate, generator):
        del start
        left, drawn = bool(generator.integers(2)), marks[int(generator.integers(len(marks)))]
        if found := MARK.match(text, end):
            made.append(Edit(end, found.end(), "") if left else Edit(found.end(), found.end(), found.group()[-1]))
        elif end == len(text) or text[end].isspace() or (marks is WIDE_MARKS and text[end].isalpha()):
            made.append(Edit(end, end, drawn))
    return made


def blanks(text: str, rate: float, generator: Any) -> list[Edit]:
    """At a share of the words: a blank put into it, the one behind it doubled, or that left out."""
    least = 2 if is_unspaced(text) else SPLIT_FROM
    made = []
    for start, end in _drawn(located(text), rate, generator):
        draws = generator.integers(1 << 30, size=2).tolist()
        possible = []
        if end - start >= least and text[start:end].isalpha():
            inner = start + 1 + draws[1] % (end - start - 1)
            possible.append(Edit(inner, inner, " "))
        if (gap := BLANK.match(text, end)) and gap.end() < len(text):
            possible += [Edit(end, end, " "), Edit(end, gap.end(), "")]
        if possible:
            made.append(possible[draws[0] % len(possible)])
    return made


# --- words -----------------------------------------------------------------------------------------------------------


def reworded(known: Dictionary, text: str, rate: float, generator: Any) -> list[Edit]:
    """A share of the words, drawn from those that the dictionary knows, each replaced by one of their synonyms."""
    places = located(text)
    words = [text[slice(*span)] for span in places]
    candidates = [(at, others) for at in range(len(words)) if (others := synonyms.fitting(known, words, at))]
    made = []
    for number in picked(generator, len(candidates), portion(rate, len(words))):
        at, others = candidates[number]
        made.append(Edit(*places[at], others[int(generator.integers(len(others)))]))
    return made


# --- all of them -----------------------------------------------------------------------------------------------------


def table(known: Dictionary | None = None) -> Mapping[str, Perturb]:
    """name -> perturbation; `synonyms` where there is a dictionary."""
    found: dict[str, Perturb] = {
        "typos": typos,
        "lower": partial(cased, str.lower),
        "upper": partial(cased, str.upper),
        "title": partial(cased, titled),
        "punctuation": punctuation,
        "blanks": blanks,
    }
    return found if known is None else {**found, "synonyms": partial(reworded, known)}


def located(text: str) -> list[Span]:
    """Where each word stands; of scripts without spaces, as a segmenter finds them."""
    words, gaps = spans.apart(text, "")
    return list(_places(words, gaps))


def _places(words: list[str], gaps: list[str]) -> Iterator[Span]:
    at = 0
    for word, gap in zip(words, gaps, strict=False):
        at += len(gap)
        yield at, at + len(word)
        at += len(word)


def _drawn(places: list[Span], rate: float, generator: Any) -> list[Span]:
    return [places[number] for number in picked(generator, len(places), portion(rate, len(places)))]


def _changing(text: str, made: list[Edit]) -> list[Edit]:
    return [edit for edit in made if text[edit.start : edit.end] != edit.by]
