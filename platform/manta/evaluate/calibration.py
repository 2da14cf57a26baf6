"""Whether a model is as sure as it is right: reliability over bins of confidence, expected calibration error, Brier score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from manta.tasks.scoring.answers import exact

if TYPE_CHECKING:
    import numpy as np

BINS = 10

Binning = Literal["width", "mass"]


class Bin(NamedTuple):
    """Predictions whose confidence lies above `low` and up to `high`: how many, how sure on average, what share is right.

    Of an empty bin, `confidence` and `accuracy` are None.
    """

    low: float
    high: float
    num: int
    confidence: float | None
    accuracy: float | None

    @property
    def gap(self) -> float:
        """accuracy - confidence, below 0 where the model is too sure; 0 of an empty bin."""
        if self.confidence is None or self.accuracy is None:
            return 0.0
        return self.accuracy - self.confidence


def reliability(
    confidences: Sequence[float], right: Sequence[bool], bins: int = BINS, binning: Binning = "width"
) -> list[Bin]:
    """Predictions by how sure they are. `confidences`, from 0 to 1, are those of the predicted class; `right` says if it was true.

    "width": `bins` intervals of equal width, the first with its lower end (Naeini et al. 2015; Guo et al. 2017,
    arXiv:1706.04599). "mass": bins of equally many predictions in the order of confidence, to within one (fewer bins where there
    are fewer predictions), from their least to their greatest confidence. Raises ValueError for none, or for what is no probability.
    """
    import numpy as np

    sure, hit = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=bool)
    if sure.shape != hit.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(f"{sure.shape} confidences for {hit.shape} answers")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("a confidence is a probability, from 0 to 1")
    if bins < 1:
        raise ValueError(f"{bins} bins")
    if binning == "mass":
        parts = [part for part in np.array_split(np.argsort(sure, kind="stable"), bins) if len(part)]
        return [_bin(float(sure[part[0]]), float(sure[part[-1]]), sure[part], hit[part]) for part in parts]
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(sure, edges, right=True) - 1, 0, None)
    return [
        _bin(float(edges[number]), float(edges[number + 1]), sure[place == number], hit[place == number])
        for number in range(bins)
    ]


def expected_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error, 0 to 1: sum over bins of (its number / all) |accuracy - confidence|."""
    total = sum(part.num for part in bins)
    return sum(part.num * abs(part.gap) for part in bins) / total


def largest_error(bins: Sequence[Bin]) -> float:
    """Maximum calibration error, 0 to 1: the largest |accuracy - confidence| of a bin."""
    return max(abs(part.gap) for part in bins)


def brier(probabilities: Sequence[Sequence[float]] | np.ndarray, labels: Sequence[int]) -> float:
    """Brier score (1950), 0 to 2, less is better: the mean over examples of sum over classes of (p - [class is true])^2.

    `probabilities` (examples, classes), `labels` (examples,) the true classes' numbers. With two classes it is twice the
    squared error of one of them. Raises ValueError for shapes that do not fit and for rows that do not add up to 1.
    """
    import numpy as np

    found, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if found.ndim != 2 or truth.shape != (len(found),) or not len(found):
        raise ValueError(f"probabilities of shape {found.shape} for labels of shape {truth.shape}")
    if not np.allclose(found.sum(1), 1, atol=1e-3):
        raise ValueError("the probabilities of an example do not add up to 1")
    wanted = np.eye(found.shape[1])[truth]
    return float(((found - wanted) ** 2).sum(1).mean())


def decisions(task: str, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> tuple[list[float], list[bool]]:
    """The decisions in the examples of scores.json: the probability of what was decided, and whether that was right.

    One label an example is one decision, and so is one answer; of several labels each is decided for or against alone; so is
    the tag of each word. `labels` are those that the probabilities speak of. Texts of which words were cut off are left out.
    """
    sure: list[float] = []
    right: list[bool] = []
    for row in rows:
        said, guess, truth = row["confidence"], row["prediction"], row["reference"]
        if task == "tagging":
            if len(said) == len(truth):
                sure += said
                right += [one == other for one, other in zip(guess, truth, strict=True)]
        elif task == "answering":
            sure += said
            right.append(exact(guess, truth) == 1.0)
        elif isinstance(guess, str):
            sure.append(max(said))
            right.append(guess == truth)
        else:
            sure += [max(share, 1 - share) for share in said]
            right += [(name in guess) == (name in truth) for name in labels]
    return sure, right


def figures(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> dict[str, float]:
    """Per cent: accuracy, mean confidence, expected calibration error over bins of equal width and of equal mass."""
    import numpy as np

    return {
        "accuracy": 100 * float(np.mean(np.asarray(right, dtype=np.float64))),
        "confidence": 100 * float(np.mean(np.asarray(confidences, dtype=np.float64))),
        "calibration_error": 100 * expected_error(reliability(confidences, right, bins)),
        "calibration_error_equal_mass": 100 * expected_error(reliability(confidences, right, bins, "mass")),
    }


def table(bins: Sequence[Bin]) -> str:
    """The bins as aligned text, in per cent, with a bar for how many predictions each holds."""
    most = max(part.num for part in bins)
    lines = [f"{'confidence':<14}{'answers':>9}{'mean':>8}{'right':>8}{'gap':>8}"]
    for part in bins:
        span = f"{100 * part.low:.1f}-{100 * part.high:.1f}"
        shares = [part.confidence, part.accuracy]
        cells = "".join(f"{'' if share is None else f'{100 * share:.1f}':>8}" for share in shares)
        gap = f"{100 * part.gap:+.1f}" if part.num else ""
        bar = "#" * round(20 * part.num / most) if most else ""
        lines.append(f"{span:<14}{part.num:>9,}{cells}{gap:>8}  {bar}".rstrip())
    return "\n".join(lines)


def _bin(low: float, high: float, sure: np.ndarray, hit: np.ndarray) -> Bin:
    if not len(sure):
        return Bin(low, high, 0, None, None)
    return Bin(low, high, len(sure), float(sure.mean()), float(hit.mean()))
