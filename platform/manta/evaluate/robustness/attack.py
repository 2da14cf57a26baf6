"""Words of a text replaced one after the other until a classifier changes its mind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from manta.data.augment import spans

if TYPE_CHECKING:
    import numpy as np

Ask = Callable[[Sequence[str]], "np.ndarray"]  # texts -> probabilities or their logarithms, float (texts, labels)
StandIns = Callable[
    [Sequence[str], int], Sequence[str]
]  # (the words, a place) -> what may stand there, the nearest first


class Change(NamedTuple):
    """A word that was replaced: the how many-th of the text, what stood there, what stands there now."""

    place: int
    word: str
    by: str


class Attacked(NamedTuple):
    """What came of a text. `num_asked` counts the texts that the model was shown."""

    flipped: bool
    text: str
    changes: list[Change]
    num_words: int
    num_asked: int


def attack(text: str, label: int, ask: Ask, stand_ins: StandIns, budget: float) -> Attacked:
    """Replace words until the model no longer gives `label`; at most the share `budget` of them, one at least.

    In the spirit of TextFooler (Jin et al., arXiv:1907.11932): words are tried in the order of how much the label's probability
    falls without them. Of a word's stand-ins the first that changes the label is taken, else the one that lowers its
    probability most, if one does. When the label has changed, replacements that were not needed are taken back, so that
    none of those left can be spared; a smaller set of others may exist. Only what `stand_ins` offers is tried.
    """
    words, gaps = spans.apart(text, "")
    trial = _Trial(ask, stand_ins, gaps, label)
    now, changes, flipped = list(words), list[Change](), False
    confidence = float(trial.probabilities([text])[0, label])
    for place in trial.order(words):
        if flipped or len(changes) == max(1, int(budget * len(words))):
            break
        if (found := trial.best(now, place, confidence)) is None:
            continue
        by, confidence, flipped = found
        changes.append(Change(place, words[place], by))
        now[place] = by
    changes = trial.spared(words, changes) if flipped else []
    return Attacked(flipped, trial.written(words, changes), changes, len(words), trial.num_asked)


class _Trial:
    """One text under attack: its gaps and label, and how often the model was asked."""

    def __init__(self, ask: Ask, stand_ins: StandIns, gaps: list[str], label: int):
        self.ask, self.stand_ins, self.gaps, self.label, self.num_asked = ask, stand_ins, gaps, label, 0

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        self.num_asked += len(texts)
        return self.ask(texts)

    def order(self, words: list[str]) -> list[int]:
        """Places of words, first where the label's probability is lowest without the word."""
        if len(words) < 2:
            return list(range(len(words)))
        left = self.probabilities([without(words, self.gaps, place) for place in range(len(words))])
        return sorted(range(len(words)), key=lambda place: float(left[place, self.label]))

    def best(self, now: list[str], place: int, confidence: float) -> tuple[str, float, bool] | None:
        """(what stands there, the label's probability then, whether another label is given); None where nothing helps."""
        options = self.stand_ins(now, place)
        if not options:
            return None
        texts = [spans.together([*now[:place], option, *now[place + 1 :]], self.gaps) for option in options]
        found = self.probabilities(texts)
        wrong = found.argmax(1) != self.label
        pick = int(wrong.argmax()) if wrong.any() else int(found[:, self.label].argmin())
        lowered = float(found[pick, self.label])
        return (options[pick], lowered, bool(wrong[pick])) if wrong[pick] or lowered < confidence else None

    def spared(self, words: list[str], changes: list[Change]) -> list[Change]:
        """The changes without those that are not needed, until none of them can be spared."""
        needed = list(changes)
        for change in changes:
            fewer = [other for other in needed if other is not change]
            if fewer and int(self.probabilities([self.written(words, fewer)])[0].argmax()) != self.label:
                needed = fewer
        return needed if len(needed) == len(changes) else self.spared(words, needed)

    def written(self, words: list[str], changes: list[Change]) -> str:
        """The text under changes."""
        by = {change.place: change.by for change in changes}
        return spans.together([by.get(place, word) for place, word in enumerate(words)], self.gaps)


def without(words: Sequence[str], gaps: Sequence[str], place: int) -> str:
    """The text without a word, and without the blank that would be doubled."""
    before, after = gaps[place], gaps[place + 1]
    if re.search(r"\s$", before) and (not after or after[0].isspace()):
        before = before[:-1]
    return spans.together([*words[:place], *words[place + 1 :]], [*gaps[:place], before + after, *gaps[place + 2 :]])
