"""Classification scored: precision, recall and F1 of each class, their averages, who was taken for whom, and the table of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from manta.tasks.scoring import spans

if TYPE_CHECKING:
    import numpy as np

MICRO, MACRO, WEIGHTED, SUBSET, ACCURACY = "micro", "macro", "weighted", "subset accuracy", "accuracy"


class Line(NamedTuple):
    """A class or an average: shares from 0 to 1, `support` is how many examples hold the class. None: not such a figure."""

    name: str
    precision: float | None
    recall: float | None
    f1: float
    support: int


class Report(NamedTuple):
    """`classes` sorted by name, `averages` over them; `notes` name the shares that are 0 because nothing was divided."""

    classes: list[Line]
    averages: list[Line]
    notes: list[str]

    def figures(self) -> dict[str, float]:
        """Per cent: accuracy (of several labels: of whole sets), and the F1 of each average, as micro_f1, macro_f1, weighted_f1."""
        found = {}
        for line in self.averages:
            name = line.name.replace(" ", "_") if line.precision is None else f"{line.name}_f1"
            found[name] = 100 * line.f1
        return found


def report(predictions: Sequence[str], references: Sequence[str]) -> Report:
    """One label an example. Accuracy is the share of examples that are right; micro F1 would be the same number.

    A class counts as soon as it stands among predictions or references. P = hits / predicted, R = hits / support,
    F1 = 2 hits / (predicted + support), each 0 where it would be 0/0 (and said so in the notes); macro is the mean over
    classes, weighted the mean weighted by support. Raises ValueError without examples or for lists of other lengths.
    """
    _check(predictions, references)
    right = sum(guess == truth for guess, truth in zip(predictions, references, strict=True))
    classes = _lines([[guess] for guess in predictions], [[truth] for truth in references])
    accuracy = Line(ACCURACY, None, None, right / len(references), len(references))
    return Report(classes, [accuracy, _macro(classes), _weighted(classes)], _notes(classes, set(predictions)))


def report_sets(predictions: Sequence[Collection[str]], references: Sequence[Collection[str]]) -> Report:
    """Any number of labels an example. Subset accuracy is the share of examples whose set of labels is right as a whole.

    Micro counts all (example, label) pairs together; the others are as in `report`. An example without a label that is
    left without one is right. Raises ValueError as `report` does.
    """
    _check(predictions, references)
    guesses, truths = [set(labels) for labels in predictions], [set(labels) for labels in references]
    right = sum(guess == truth for guess, truth in zip(guesses, truths, strict=True))
    counts = summands(guesses, truths)
    names = sorted(set().union(*guesses, *truths))
    hits, guessed, wanted = counts.reshape(len(counts), len(names), 3).sum((0, 1)).tolist()
    micro = Line(MICRO, _share(hits, guessed), _share(hits, wanted), _share(2 * hits, guessed + wanted), int(wanted))
    classes = _lines(guesses, truths)
    subset = Line(SUBSET, None, None, right / len(truths), len(truths))
    averages = [subset, micro, _macro(classes), _weighted(classes)]
    return Report(classes, averages, _notes(classes, set().union(*guesses)))


def report_entities(predictions: spans.Tagged, references: spans.Tagged, reading: spans.Reading = "lenient") -> Report:
    """Entities in sequences of tags: the types are the classes, `support` counts entities, micro is over all of them.

    See `manta.tasks.scoring.spans` for what an entity is. Where there are none and none was found, F1 is 1.
    """
    counts = spans.count(predictions, references, reading)
    whole = spans.total(counts)
    classes = [Line(name, found.precision, found.recall, found.f1, found.wanted) for name, found in counts.items()]
    micro = Line(MICRO, whole.precision, whole.recall, whole.f1, whole.wanted)
    averages = [micro, _macro(classes), _weighted(classes)] if classes else [micro]
    return Report(classes, averages, _notes(classes, {name for name, found in counts.items() if found.guessed}))


def summands(
    predictions: Sequence[Collection[str]], references: Sequence[Collection[str]], names: Sequence[str] | None = None
) -> np.ndarray:
    """(examples, 3 classes) float64: for each class in turn hit, predicted, held, each 0 or 1. Their sums make every F1.

    `names` are the classes in their order (default: all that occur, sorted). For one label an example give lists of one.
    """
    import numpy as np

    if names is None:
        names = sorted(set().union(*predictions, *references))
    column = {name: position for position, name in enumerate(names)}
    found = np.zeros((len(references), len(names), 3))
    for row, (guess, truth) in enumerate(zip(predictions, references, strict=True)):
        for label in guess:
            found[row, column[label], 1] = 1
        for label in truth:
            found[row, column[label], 2] = 1
    found[:, :, 0] = found[:, :, 1] * found[:, :, 2]
    return found.reshape(len(references), 3 * len(names))


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Mean over classes of F1, from sums of `summands`: (draws, 3 classes) -> (draws,). A class that is in no draw counts not at all.

    So that resampling does not lower the figure merely by losing a rare class.
    """
    import numpy as np

    hits, guessed, wanted = (sums[:, part::3] for part in range(3))
    there = guessed + wanted
    f1 = np.divide(2 * hits, there, out=np.zeros_like(hits), where=there > 0)
    return np.asarray(f1.sum(1) / (there > 0).sum(1))


def micro_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of all classes together, from sums of `summands`: (draws, 3 classes) -> (draws,)."""
    import numpy as np

    return np.asarray(2 * sums[:, 0::3].sum(1) / (sums[:, 1::3].sum(1) + sums[:, 2::3].sum(1)))


def confusion(predictions: Sequence[str], references: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The classes, sorted, and the counts (classes, classes) int64: row the true class, column the predicted one."""
    import numpy as np

    names = sorted({*predictions, *references})
    place = {name: position for position, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for guess, truth in zip(predictions, references, strict=True):
        counts[place[truth], place[guess]] += 1
    return names, counts


def table(found: Report, digits: int = 1) -> str:
    """The report as aligned text, in per cent, one line a class, averages below, notes at the end."""
    lines = [*found.classes, *found.averages]
    width = max(len(line.name) for line in lines)
    head = f"{'':<{width}}{'precision':>11}{'recall':>9}{'F1':>9}{'examples':>10}"

    def text(line: Line) -> str:
        shares = (line.precision, line.recall, line.f1)
        cells = ["" if share is None else f"{100 * share:.{digits}f}" for share in shares]
        return f"{line.name:<{width}}{cells[0]:>11}{cells[1]:>9}{cells[2]:>9}{line.support:>10,}"

    body = [text(line) for line in found.classes] + [""] + [text(line) for line in found.averages]
    return "\n".join([head, *body, *([""] if found.notes else []), *found.notes])


def _check(predictions: Sequence[object], references: Sequence[object]) -> None:
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")


def _lines(predictions: Sequence[Collection[str]], references: Sequence[Collection[str]]) -> list[Line]:
    names = sorted(set().union(*predictions, *references))
    sums = summands(predictions, references, names).sum(0).reshape(len(names), 3).tolist()
    return [
        Line(name, _share(hits, guessed), _share(hits, wanted), _share(2 * hits, guessed + wanted), int(wanted))
        for name, (hits, guessed, wanted) in zip(names, sums, strict=True)
    ]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _average(name: str, classes: Sequence[Line], weights: Sequence[float]) -> Line:
    total = sum(weights)

    def of(values: Sequence[float | None]) -> float:
        return _share(sum(weight * (value or 0.0) for weight, value in zip(weights, values, strict=True)), total)

    support = sum(line.support for line in classes)
    return Line(
        name,
        of([line.precision for line in classes]),
        of([line.recall for line in classes]),
        of([line.f1 for line in classes]),
        support,
    )


def _macro(classes: Sequence[Line]) -> Line:
    return _average(MACRO, classes, [1.0] * len(classes))


def _weighted(classes: Sequence[Line]) -> Line:
    return _average(WEIGHTED, classes, [float(line.support) for line in classes])


def _notes(classes: Sequence[Line], predicted: Collection[str]) -> list[str]:
    never = [
        f"{line.name}: never predicted, so its precision counts as 0" for line in classes if line.name not in predicted
    ]
    return never + [
        f"{line.name}: not in any reference, so its recall counts as 0" for line in classes if not line.support
    ]
