"""Classification reports by hand, and against scikit-learn where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from manta.evaluate import bootstrap, classification
from manta.evaluate.classification import Line, confusion, report, report_entities, report_sets, summands, table

TRUTH = ["cat", "cat", "cat", "dog", "dog", "owl"]
GUESS = ["cat", "cat", "dog", "dog", "cat", "fox"]


def test_a_report_by_hand() -> None:
    found = report(GUESS, TRUTH)
    assert found.classes == [
        Line("cat", 2 / 3, 2 / 3, 2 / 3, 3),
        Line("dog", 1 / 2, 1 / 2, 1 / 2, 2),
        Line("fox", 0.0, 0.0, 0.0, 0),
        Line("owl", 0.0, 0.0, 0.0, 1),
    ]
    accuracy, macro, weighted = found.averages
    assert accuracy == Line("accuracy", None, None, 3 / 6, 6)
    assert macro[1:4] == pytest.approx([(2 / 3 + 1 / 2) / 4] * 3)
    assert weighted[1:4] == pytest.approx([(3 * 2 / 3 + 2 * 1 / 2) / 6] * 3)
    assert found.figures() == pytest.approx({"accuracy": 50.0, "macro_f1": 100 * 7 / 24, "weighted_f1": 50.0})
    assert found.notes == [
        "owl: never predicted, so its precision counts as 0",
        "fox: not in any reference, so its recall counts as 0",
    ]


def test_sets_of_labels_by_hand() -> None:
    found = report_sets([["a", "b"], ["a"], [], []], [["a"], ["a"], ["b"], []])
    subset, micro, macro, _ = found.averages
    assert subset.f1 == 2 / 4  # the second, and the last, which rightly has none
    assert micro[1:] == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))  # a twice right, b once guessed in vain, once missed
    assert macro.f1 == pytest.approx((1.0 + 0.0) / 2)
    assert found.figures().keys() == {"subset_accuracy", "micro_f1", "macro_f1", "weighted_f1"}


def test_entities_by_hand() -> None:
    found = report_entities([["B-PER", "O", "B-LOC"]], [["B-PER", "O", "B-PER"]])
    assert found.classes == [Line("LOC", 0.0, 0.0, 0.0, 0), Line("PER", 1.0, 1 / 2, 2 / 3, 2)]
    assert found.averages[0] == Line("micro", 1 / 2, 1 / 2, 1 / 2, 2)
    assert found.notes == ["LOC: not in any reference, so its recall counts as 0"]
    assert report_entities([["O"]], [["O"]]).figures() == {"micro_f1": 100.0}


def test_confusion_has_a_row_for_each_truth() -> None:
    names, counts = confusion(GUESS, TRUTH)
    assert names == ["cat", "dog", "fox", "owl"]
    assert counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_the_table_is_aligned_and_says_what_was_not_there() -> None:
    assert table(report(GUESS, TRUTH)).splitlines() == [
        "          precision   recall       F1  examples",
        "cat            66.7     66.7     66.7         3",
        "dog            50.0     50.0     50.0         2",
        "fox             0.0      0.0      0.0         0",
        "owl             0.0      0.0      0.0         1",
        "",
        "accuracy                         50.0         6",
        "macro          29.2     29.2     29.2         6",
        "weighted       50.0     50.0     50.0         6",
        "",
        "owl: never predicted, so its precision counts as 0",
        "fox: not in any reference, so its recall counts as 0",
    ]


def test_sums_make_the_same_figures_as_the_report() -> None:
    rows = summands([[label] for label in GUESS], [[label] for label in TRUTH])
    assert rows.shape == (6, 3 * 4)
    sums = rows.sum(0)[None]
    assert classification.macro_f1(sums)[0] == pytest.approx(7 / 24)
    assert classification.micro_f1(sums)[0] == pytest.approx(3 / 6)


def test_a_class_that_a_draw_lacks_does_not_lower_its_macro_f1() -> None:
    rows = summands([["a"], ["b"]], [["a"], ["b"]])
    found = bootstrap.interval(bootstrap.of_sums(rows, classification.macro_f1), 2, seed=0)
    assert found == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("scored", [report, report_sets])
def test_nothing_to_score_is_an_error(scored) -> None:
    with pytest.raises(ValueError, match="0 predictions for 0 references"):
        scored([], [])
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        scored(["a"], ["a", "b"])


def test_scikit_learn_agrees_on_one_label() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    truth = [str(label) for label in random.integers(5, size=200)]
    guess = [
        label if lucky else str(other)
        for label, lucky, other in zip(truth, random.random(200) < 0.6, random.integers(6, size=200), strict=True)
    ]
    ours = report(guess, truth)
    theirs = metrics.classification_report(truth, guess, output_dict=True, zero_division=0)
    for line in ours.classes:
        assert line[1:] == pytest.approx(tuple(theirs[line.name].values()))
    assert ours.averages[0].f1 == pytest.approx(theirs["accuracy"])
    for line, name in zip(ours.averages[1:], ["macro avg", "weighted avg"], strict=True):
        assert line[1:] == pytest.approx(tuple(theirs[name].values()))
    assert confusion(guess, truth)[1].tolist() == metrics.confusion_matrix(truth, guess).tolist()


def test_scikit_learn_agrees_on_several_labels() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(1)
    names = np.array(list("abcd"))
    true, guessed = random.random((100, 4)) < 0.4, random.random((100, 4)) < 0.4
    ours = report_sets([names[row] for row in guessed], [names[row] for row in true])
    theirs = metrics.classification_report(true, guessed, target_names=names, output_dict=True, zero_division=0)
    assert ours.averages[0].f1 == pytest.approx(metrics.accuracy_score(true, guessed))
    for line, name in zip(ours.averages[1:], ["micro avg", "macro avg", "weighted avg"], strict=True):
        assert line[1:] == pytest.approx(tuple(theirs[name].values()))
