"""Entities in sequences of tags (BIO, BIOES), and how many of them were found: precision, recall and F1 of whole entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

OUTSIDE = "O"
MARKS = "BIES"  # begin, inside, end, single

Reading = Literal["lenient", "bio", "bioes"]
Tagged = Sequence[Sequence[str]]  # one sequence of tags per text


class Entity(NamedTuple):
    """An entity: its type, its first and its last word, counted from 0."""

    type: str
    first: int
    last: int


class Counts(NamedTuple):
    """Entities found rightly (type and both ends), found at all, and there to be found."""

    right: int
    guessed: int
    wanted: int

    @property
    def precision(self) -> float:
        """right / guessed; 0 where nothing was guessed."""
        return self.right / self.guessed if self.guessed else 0.0

    @property
    def recall(self) -> float:
        """right / wanted; 0 where nothing was there."""
        return self.right / self.wanted if self.wanted else 0.0

    @property
    def f1(self) -> float:
        """2 right / (guessed + wanted), the harmonic mean of both; 1 where nothing was there and nothing was guessed."""
        total = self.guessed + self.wanted
        return 2 * self.right / total if total else 1.0


def scheme_of(tags: Iterable[str]) -> Literal["bio", "bioes", "none"]:
    """Which scheme a set of tags follows: "none" where a tag is neither O nor one of B-, I-, E-, S- before a type."""
    marks = set()
    for tag in tags:
        mark, dash, kind = tag.partition("-")
        if tag != OUTSIDE and not (len(mark) == 1 and mark in MARKS and dash and kind):
            return "none"
        marks.add(mark)
    return "bioes" if marks & {"E", "S"} else "bio" if marks - {OUTSIDE} else "none"


def entities(tags: Sequence[str], reading: Reading = "lenient") -> list[Entity]:
    """The entities of one sequence of tags, in order.

    "lenient" reads sequences that break the rules as the CoNLL-2000 scorer does (conlleval; seqeval's default): a change of type,
    or an I or E with nothing open before it, begins an entity. The strict readings take only what is well formed:
    "bio" B I*, "bioes" B I* E or S; whatever else is there belongs to no entity.
    Raises ValueError for a tag that is neither O nor B-, I-, E- or S- before a type.
    """
    marks = [_split(tag) for tag in tags]
    if reading == "lenient":
        return _lenient(marks)
    return _strict(marks, closed=reading == "bioes")


def count(predictions: Tagged, references: Tagged, reading: Reading = "lenient") -> dict[str, Counts]:
    """Counts of each type that stands in either, sorted by name, over all sequences. Raises ValueError for other lengths."""
    right, guessed, wanted = Counter[str](), Counter[str](), Counter[str]()
    for guess, truth in _pairs(predictions, references):
        found, true = set(entities(guess, reading)), set(entities(truth, reading))
        right.update(entity.type for entity in found & true)
        guessed.update(entity.type for entity in found)
        wanted.update(entity.type for entity in true)
    return {kind: Counts(right[kind], guessed[kind], wanted[kind]) for kind in sorted({*guessed, *wanted})}


def each(predictions: Tagged, references: Tagged, reading: Reading = "lenient") -> list[Counts]:
    """Counts of each sequence alone, all types together: what is resampled to see how sure a figure is."""
    return [total(count([guess], [truth], reading)) for guess, truth in _pairs(predictions, references)]


def total(counts: dict[str, Counts]) -> Counts:
    """All types together (micro average)."""
    return Counts(*(sum(column) for column in zip(*counts.values(), strict=True))) if counts else Counts(0, 0, 0)


def f1(predictions: Tagged, references: Tagged, reading: Reading = "lenient") -> float:
    """Entity F1 (0 to 1) over all sequences and types: an entity counts when its type and both of its ends are right."""
    return total(count(predictions, references, reading)).f1


def figures(predictions: Tagged, references: Tagged, reading: Reading = "lenient") -> dict[str, float]:
    """Per cent: precision, recall and f1 over all entities, and macro_f1, the mean of the types' F1."""
    counts = count(predictions, references, reading)
    overall = total(counts)
    macro = sum(kind.f1 for kind in counts.values()) / len(counts) if counts else overall.f1
    shares = {"precision": overall.precision, "recall": overall.recall, "f1": overall.f1, "macro_f1": macro}
    return {name: 100 * share for name, share in shares.items()}


def _pairs(predictions: Tagged, references: Tagged) -> Iterable[tuple[Sequence[str], Sequence[str]]]:
    for number, (guess, truth) in enumerate(zip(predictions, references, strict=True)):
        if len(guess) != len(truth):
            raise ValueError(f"sequence {number} has {len(guess)} tags where the reference has {len(truth)}")
        yield guess, truth


def _split(tag: str) -> tuple[str, str]:
    if tag == OUTSIDE:
        return OUTSIDE, ""
    mark, _, kind = tag.partition("-")
    if len(mark) != 1 or mark not in MARKS or not kind:
        raise ValueError(f"tag {tag!r} is neither O nor one of B-, I-, E-, S- before a type: it marks no entity")
    return mark, kind


def _lenient(marks: Sequence[tuple[str, str]]) -> list[Entity]:
    found: list[Entity] = []
    open_at: int | None = None
    before, kind_before = OUTSIDE, ""
    for position, (mark, kind) in enumerate([*marks, (OUTSIDE, "")]):
        if open_at is not None and (mark in (OUTSIDE, "B", "S") or kind != kind_before or before in "ES"):
            found.append(Entity(kind_before, open_at, position - 1))
            open_at = None
        if mark != OUTSIDE and open_at is None:
            open_at = position
        before, kind_before = mark, kind
    return found


def _strict(marks: Sequence[tuple[str, str]], closed: bool) -> list[Entity]:
    """`closed`: an entity of several words must end with E, and one of a single word is S."""
    found: list[Entity] = []
    position = 0
    while position < len(marks):
        mark, kind = marks[position]
        last = position
        if mark == "B":
            while last + 1 < len(marks) and marks[last + 1] == ("I", kind):
                last += 1
            ended = not closed
            if closed and last + 1 < len(marks) and marks[last + 1] == ("E", kind):
                last, ended = last + 1, True
            if ended:
                found.append(Entity(kind, position, last))
        elif mark == "S" and closed:
            found.append(Entity(kind, position, position))
        position = last + 1
    return found
