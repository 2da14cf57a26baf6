"""BLEU and chrF of a set of texts, and the counts of each text that they are made of: sums of counts give any subset's figure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BLEU_ORDER = 4  # words
CHRF_ORDER, BETA = 6, 2  # characters; recall weighs twice as much as precision
WORDS = "13a"  # sacrebleu's name for the words of languages that put blanks between them
# Scripts without blanks between words: kana, Thai, Lao, Burmese, Khmer; and Chinese characters.
UNSPACED = re.compile("[\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
FEW = 0.1  # of a set's characters: names and quotations in a foreign script


def words_of(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for a set of references, by their script: `zh`, `char` or `13a`.

    Japanese (which mixes kana and Chinese characters), Thai, Lao, Burmese and Khmer are counted by characters, since a
    dictionary of their words would be one more thing that a figure depends on; Chinese by characters, with words of
    other scripts whole. The choice is that of all references together.
    """
    text = "".join("".join(each.split()) for each in references)
    if len(UNSPACED.findall(text)) > FEW * len(text):
        return "char"
    return "zh" if len(CHINESE.findall(text)) > FEW * len(text) else WORDS


def bleu(predictions: Sequence[str], references: Sequence[str], words: str = WORDS) -> float:
    """Corpus BLEU in per cent (Papineni et al. 2002), as sacrebleu computes it with exponential smoothing.

    `words` is sacrebleu's tokenizer. Raises ValueError without texts.
    """
    return float(bleu_of(bleu_rows(predictions, references, words).sum(0)[None])[0])


def chrf(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2 in per cent (Popović 2015): F2 of precision and recall of character 1- to 6-grams, averaged over the orders that
    occur; blanks do not count. The same number as sacrebleu's. Raises ValueError without texts."""
    return float(chrf_of(chrf_rows(predictions, references).sum(0)[None])[0])


def bleu_rows(predictions: Sequence[str], references: Sequence[str], words: str = WORDS) -> np.ndarray:
    """(texts, 10) float64: matching n-grams of order 1 to 4, n-grams of the prediction, words of prediction and reference."""
    import numpy as np
    from sacrebleu.metrics import BLEU

    _check(predictions, references)
    metric = BLEU(effective_order=True, tokenize=words)  # which changes a single text's score, not its counts
    found = [metric.sentence_score(guess, [wanted]) for guess, wanted in zip(predictions, references, strict=True)]
    return np.array([[*text.counts, *text.totals, text.sys_len, text.ref_len] for text in found], dtype=np.float64)


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """BLEU in per cent from sums of `bleu_rows`: (draws, 10) -> (draws,)."""
    import numpy as np
    from sacrebleu.metrics import BLEU

    orders = BLEU_ORDER
    scores = [
        BLEU.compute_bleu(row[:orders], row[orders : 2 * orders], int(row[-2]), int(row[-1]), smooth_method="exp").score
        for row in sums.round().astype(int).tolist()
    ]
    return np.array(scores, dtype=np.float64)


def chrf_rows(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(texts, 18) float64: for each order 1 to 6 in turn the matching n-grams, the prediction's, the reference's."""
    import numpy as np

    _check(predictions, references)
    rows = []
    for guess, wanted in zip(predictions, references, strict=True):
        row: list[int] = []
        for order in range(1, CHRF_ORDER + 1):
            mine, theirs = _grams(guess, order), _grams(wanted, order)
            row += [sum((mine & theirs).values()), sum(mine.values()), sum(theirs.values())]
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def chrf_of(sums: np.ndarray) -> np.ndarray:
    """chrF in per cent from sums of `chrf_rows`: (draws, 18) -> (draws,). 0 where there is nothing in common."""
    import numpy as np

    matches, guessed, wanted = (sums[:, part::3] for part in range(3))  # (draws, orders) each
    counted = (guessed > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(1), 1)
    precision = np.divide(matches, guessed, out=np.zeros_like(matches), where=counted).sum(1) / orders
    recall = np.divide(matches, wanted, out=np.zeros_like(matches), where=counted).sum(1) / orders
    below = BETA**2 * precision + recall
    score = np.divide((1 + BETA**2) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
    return np.asarray(100 * score)


def _grams(text: str, order: int) -> Counter[str]:
    dense = "".join(text.split())
    return Counter(dense[first : first + order] for first in range(len(dense) - order + 1))


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
