"""Every figure of an evaluation as a formula over sums of examples: what intervals and comparisons are computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.evaluate.bootstrap import Formula
from manta.evaluate.classification import macro_f1, summands
from manta.evaluate.paired import ratio
from manta.evaluate.scores import score
from manta.tasks import LABELLING, classification, relations
from manta.tasks.scoring import answers, ngrams
from manta.tasks.scoring.scores import exact_match, rouge_l, rouge_n, token_f1

if TYPE_CHECKING:
    import numpy as np

# Answers of a task as scores.json holds them: texts, labels, lists of labels or tags.
Answers = Sequence[Any]
Rows = Callable[[Answers, Answers], "np.ndarray"]  # predictions, references -> (examples, columns) float64


class Figure(NamedTuple):
    """A figure of one or several models on the same examples.

    `rows` holds each model's summands, (examples, columns) float64 with the same columns; `formula` makes the figure of
    their sums, and an example's own figure of its row (not a number where the example does not bear on it).
    """

    name: str
    rows: list[np.ndarray]
    formula: Formula
    lower_is_better: bool = False

    def each(self, model: int) -> np.ndarray:
        """The figure of each example alone, (examples,) float64. One on which nothing was to be done or done wrongly is right."""
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(self.formula(self.rows[model]), nan=100.0)


def of_task(task: str, models: Sequence[Answers], references: Answers) -> list[Figure]:
    """The task's figures in per cent, the main one first, as "score". `models` holds each model's answers."""
    num = len(references)
    everything = [answer for answers in models for answer in answers]
    repeated = [wanted for _ in models for wanted in references]
    found = []
    for name, rows_of, formula in TASKS.get(task, [("score", partial(_shares, task), _percent)]):
        # Made together, so that columns which stand for classes are the same for all models.
        rows = rows_of(everything, repeated)
        found.append(Figure(name, [rows[first : first + num] for first in range(0, len(rows), num)], formula))
    return found


def of_likelihoods(models: Sequence[Sequence[float]], tokens: Sequence[int]) -> Figure:
    """Perplexity, from each model's negative log-likelihoods of rows and the numbers of tokens that were predicted in them."""
    import numpy as np

    rows = [np.stack([np.asarray(nll, float), np.asarray(tokens, float)], axis=1) for nll in models]
    return Figure("perplexity", rows, lambda sums: np.exp(ratio(sums)), lower_is_better=True)


def _percent(sums: np.ndarray) -> np.ndarray:
    return 100 * ratio(sums)


def _macro_percent(sums: np.ndarray) -> np.ndarray:
    return 100 * macro_f1(sums)


def _mean(measure: Callable[[Any, Any], float], predictions: Answers, references: Answers) -> np.ndarray:
    """A measure of one answer, and a one to count it."""
    import numpy as np

    pairs = zip(predictions, references, strict=True)
    return np.array([(measure(guess, wanted), 1.0) for guess, wanted in pairs], dtype=np.float64)


def _shares(task: str, predictions: Answers, references: Answers) -> np.ndarray:
    """Numerators and denominators of the task's score: those of a labelling task, else each answer's own score."""
    import numpy as np

    if task in LABELLING:
        rows = LABELLING[task].shares(predictions, references)
    else:
        rows = [(points / 100, 1.0) for points in score(task, predictions, references).each]
    return np.array(rows, dtype=np.float64)


def _labels(predictions: Answers, references: Answers) -> np.ndarray:
    guesses = [classification.as_set(answer) for answer in predictions]
    return summands(guesses, [classification.as_set(answer) for answer in references])


def _same_labels(guess: Any, wanted: Any) -> float:
    return float(classification.as_set(guess) == classification.as_set(wanted))


def _relations(predictions: Answers, references: Answers) -> np.ndarray:
    """As `_labels`, where no relation is no label."""
    guesses = [{answer} - {relations.NONE} for answer in predictions]
    return summands(guesses, [{answer} - {relations.NONE} for answer in references])


def _nearness(rank: int, _: Any) -> float:
    return 1 / rank


def _words(predictions: Answers, references: Answers) -> np.ndarray:
    import numpy as np

    pairs = zip(predictions, references, strict=True)
    rows = [(sum(map(str.__eq__, guess, wanted)), len(wanted)) for guess, wanted in pairs]
    return np.array(rows, dtype=np.float64)


def _bleu(predictions: Answers, references: Answers) -> np.ndarray:
    return ngrams.bleu_rows(predictions, references, ngrams.words_of(references))


# task -> (name, summands, formula); of any other task the score alone.
TASKS: dict[str, list[tuple[str, Rows, Formula]]] = {
    "summarisation": [
        ("score", partial(_mean, rouge_l), _percent),
        ("rouge_1", partial(_mean, partial(rouge_n, n=1)), _percent),
        ("rouge_2", partial(_mean, partial(rouge_n, n=2)), _percent),
        ("token_f1", partial(_mean, token_f1), _percent),
        ("exact_match", partial(_mean, exact_match), _percent),
    ],
    "translation": [("score", ngrams.chrf_rows, ngrams.chrf_of), ("bleu", _bleu, ngrams.bleu_of)],
    "chat": [("score", ngrams.chrf_rows, ngrams.chrf_of), ("bleu", ngrams.bleu_rows, ngrams.bleu_of)],
    "classification": [
        ("score", partial(_shares, "classification"), _percent),
        ("accuracy", partial(_mean, _same_labels), _percent),
        ("macro_f1", _labels, _macro_percent),
    ],
    "relations": [
        ("score", partial(_shares, "relations"), _percent),
        ("accuracy", partial(_mean, _same_labels), _percent),
        ("macro_f1", _relations, _macro_percent),
    ],
    "answering": [
        ("score", partial(_shares, "answering"), _percent),
        ("exact_match", partial(_mean, answers.exact), _percent),
    ],
    "tagging": [("score", partial(_shares, "tagging"), _percent), ("accuracy", _words, _percent)],
    "embedding": [("score", partial(_shares, "embedding"), _percent), ("mrr", partial(_mean, _nearness), _percent)],
}
