"""Short answers scored as SQuAD scores them: exact match and F1 of words, the best of several references, answers that do not exist."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from manta.tasks.scoring.scores import mean

NO_ANSWER = ""  # the prediction that the text holds no answer
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# Thai, Lao, Burmese, Khmer, kana, Han: written without blanks between words.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def normalise(text: str) -> str:
    """Lower case, without punctuation (ASCII), without English articles, one space between words.

    In a text that holds letters of a script without blanks, each of them is a word, and all of Unicode's punctuation
    goes, as in MLQA (Lewis et al., arXiv:1910.07475).
    """
    plain = text.lower().translate(PUNCTUATION)
    if UNSPACED.search(plain):
        plain = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in plain)
        plain = UNSPACED.sub(r" \g<0> ", plain)
    return " ".join(ARTICLES.sub(" ", plain).split())


def exact(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction, normalised, is one of the references. No references: 1 if nothing was answered."""
    return max(float(normalise(prediction) == normalise(wanted)) for wanted in _answers(references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of normalised words (order aside, repeats counted) against the reference that gives most, 0 to 1.

    Where prediction or reference has no words it is 1 if neither has, else 0: an answer that does not exist is either
    recognised or not.
    """
    return max(_word_f1(normalise(prediction).split(), normalise(wanted).split()) for wanted in _answers(references))


def figures(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means in per cent: exact_match and f1 (Rajpurkar et al. 2016, arXiv:1606.05250); where some questions have no answer
    (2018, arXiv:1806.03822) also answerable_f1, unanswerable_recall (such questions left unanswered), and
    unanswerable_precision (unanswered ones that have none; 0 where all were answered)."""
    pairs = list(zip(predictions, references, strict=True))
    found = {
        "exact_match": 100 * mean(exact(guess, wanted) for guess, wanted in pairs),
        "f1": 100 * mean(f1(guess, wanted) for guess, wanted in pairs),
    }
    absent = [(guess, wanted) for guess, wanted in pairs if _unanswerable(wanted)]
    if absent:
        left = [wanted for guess, wanted in pairs if not normalise(guess)]
        found["answerable_f1"] = 100 * mean(f1(guess, wanted) for guess, wanted in pairs if not _unanswerable(wanted))
        found["unanswerable_recall"] = 100 * mean(exact(guess, wanted) for guess, wanted in absent)
        found["unanswerable_precision"] = 100 * mean(float(_unanswerable(wanted)) for wanted in left)
    return found


def _answers(references: Sequence[str]) -> Sequence[str]:
    """The references that say something; the empty answer where none does."""
    return [wanted for wanted in references if normalise(wanted)] or [NO_ANSWER]


def _unanswerable(references: Sequence[str]) -> bool:
    return _answers(references) == [NO_ANSWER]


def _word_f1(guess: list[str], wanted: list[str]) -> float:
    if not guess or not wanted:
        return float(guess == wanted)
    return 2 * sum((Counter(guess) & Counter(wanted)).values()) / (len(guess) + len(wanted))
