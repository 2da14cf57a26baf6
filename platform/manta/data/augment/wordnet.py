"""English synonyms out of an installed WordNet's database files (Fellbaum 1998; the format is wndb(5) and cntlist(5))."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

from manta.data.augment.dictionary import Dictionary
from manta.errors import InputError

PARTS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}  # of speech, with their numbers in sense keys
DEBIAN = "/usr/share/wordnet"
MISSING = "no WordNet is installed here: install Debian's wordnet-base, set WNHOME, or name a file as path"
# Words of grammar that are spelt like a noun, verb or adverb: "are" is also a measure, "can" also a tin.
_GRAMMAR = """
    about above across after again against ago all along also although among and another any anybody anyone anything
    are around away back because been before behind being below beneath beside besides between beyond both but can
    cannot could did does doing done down during each either else enough even ever every everybody everyone
    everything few for from further get gets got had has have having hence her here hers herself him himself his how
    however indeed inside instead into its itself just least less let like likely little lot lots many may maybe
    might mine more moreover most much must myself near neither never nevertheless next nobody none nor not nothing
    now off often once one ones only onto other others otherwise ought our ours ourselves out outside over own past
    per perhaps quite rather same shall she should since some somebody someone something soon still such than that
    the their theirs them themselves then there therefore these they this those though through throughout thus till
    too toward towards two under unless until upon used very was way well were what whatever when whenever where
    whereas wherever whether which while who whoever whom whose why will with within without would yes yet you your
    yours yourself yourselves
"""
GRAMMAR = frozenset(_GRAMMAR.split())


def folder() -> Path | None:
    """Where WordNet's files are: $WNSEARCHDIR, $WNHOME/dict, or Debian's place; None where there are none."""
    home = os.environ.get("WNHOME")
    places = (os.environ.get("WNSEARCHDIR"), home and f"{home}/dict", DEBIAN)
    return next((Path(place) for place in places if place and (Path(place) / "index.noun").is_file()), None)


def inventory() -> str:
    """Names and sizes of its files, which tell one version from another; "" where there is none."""
    place = folder()
    if place is None:
        return ""
    return " ".join(f"{file.name}:{file.stat().st_size}" for file in sorted(place.glob("data.*")))


def read(where: str) -> Dictionary:
    """word -> the other words for its commonest meaning, in its commonest part of speech. Raises InputError.

    Only single words of three lower-case letters or more, no words of grammar; irregular forms (saw, left) have no entry.
    """
    place = folder()
    if place is None:
        raise InputError(f"{where}.path: {MISSING}")
    return _read(place)


@functools.lru_cache(1)
def _read(place: Path) -> Dictionary:
    irregular = {line.split(" ", 1)[0] for part in PARTS for line in _lines(place / f"{part}.exc")}
    counts = dict(_counts(place))
    best: dict[str, tuple[int, tuple[str, ...]]] = {}
    for part, key in PARTS.items():
        meanings = dict(_meanings(place / f"data.{part}"))
        for line in _lines(place / f"index.{part}"):
            word, _, _, pointers, *rest = line.split()
            if not _plain(word) or word in irregular:
                continue
            count = counts.get((word, key), 0)
            if word not in best or count > best[word][0]:
                best[word] = count, meanings.get(rest[int(pointers) + 2], ())
    others = ((word, tuple(other for other in meaning if other != word)) for word, (_, meaning) in best.items())
    return {word: rest for word, rest in others if rest}


def _plain(word: str) -> bool:
    return len(word) > 2 and word.isalpha() and word.islower() and word not in GRAMMAR


def _meanings(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(offset, its plain words) of each meaning that has several."""
    for line in _lines(path):
        offset, _, _, count, *rest = line.split(" | ", 1)[0].split()
        listed = (word.split("(")[0] for word in rest[: 2 * int(count, 16) : 2])  # (p): where an adjective may stand
        words = tuple(filter(_plain, listed))
        if len(words) > 1:
            yield offset, words


def _counts(place: Path) -> Iterator[tuple[tuple[str, int], int]]:
    """How often the first meaning of a (word, part of speech) stands in the texts that WordNet's makers tagged."""
    for line in _lines(place / "cntlist.rev"):
        key, sense, count = line.split()
        word, _, rest = key.partition("%")
        if sense == "1":
            part = int(rest[0])
            yield (word, PARTS["adj"] if part == 5 else part), int(count)  # 5: satellites of adjectives


def _lines(path: Path) -> Iterator[str]:
    """The lines but for the licence at the top, which is indented. A file that is not there has none."""
    if path.is_file():
        with path.open(encoding="ascii", errors="replace") as lines:
            yield from (line for line in lines if not line.startswith(" ") and line.strip())
