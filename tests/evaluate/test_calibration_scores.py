"""Calibration by hand: which bin a confidence belongs to, the errors over bins, the Brier score, the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manta.evaluate.calibration import Bin, brier, decisions, expected_error, figures, largest_error, reliability, table

SURE = [0.0, 0.5, 0.55, 0.6, 0.9, 1.0]
RIGHT = [False, True, False, True, True, False]


def test_bins_of_equal_width_hold_their_upper_end() -> None:
    low, high = reliability(SURE, RIGHT, bins=2)
    assert low == Bin(0.0, 0.5, 2, 0.25, 0.5)  # 0 and 0.5
    assert high[:3] == (0.5, 1.0, 4)
    assert high.confidence == pytest.approx((0.55 + 0.6 + 0.9 + 1.0) / 4)
    assert high.accuracy == 0.5
    assert low.gap == 0.25


def test_bins_of_equal_mass_hold_equally_many() -> None:
    bins = reliability([0.9, 0.1, 0.3, 0.2, 0.8], [True, False, True, False, True], bins=2, binning="mass")
    assert [(part.low, part.high, part.num) for part in bins] == [(0.1, 0.3, 3), (0.8, 0.9, 2)]
    assert bins[0].accuracy == pytest.approx(1 / 3)
    assert len(reliability([0.5, 0.6], [True, True], bins=10, binning="mass")) == 2


def test_errors_by_hand() -> None:
    bins = reliability(SURE, RIGHT, bins=2)
    gap = 3.05 / 4 - 0.5
    assert expected_error(bins) == pytest.approx((2 * 0.25 + 4 * gap) / 6)
    assert largest_error(bins) == pytest.approx(gap)
    assert figures(SURE, RIGHT, bins=2) == pytest.approx(
        {
            "accuracy": 50.0,
            "confidence": 100 * 3.55 / 6,
            "calibration_error": 100 * (0.5 + 4 * gap) / 6,
            # 0, 0.5, 0.55 with one of three right; 0.6, 0.9, 1.0 with two of three
            "calibration_error_equal_mass": 100 * (abs(1 - 1.05) + abs(2 - 2.5)) / 6,
        }
    )


def test_a_calibrated_model_has_next_to_no_error_and_a_sure_one_has() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0.2, 1.0, size=20_000)
    right = random.random(20_000) < sure
    assert expected_error(reliability(sure, right)) < 0.02  # ten bins of 2,000: about 0.01 by chance
    assert expected_error(reliability(np.sqrt(sure), right)) > 0.1


def test_empty_bins_are_there_but_count_nothing() -> None:
    bins = reliability([0.95], [True], bins=4)
    assert [part.num for part in bins] == [0, 0, 0, 1]
    assert bins[0] == Bin(0.0, 0.25, 0, None, None)
    assert expected_error(bins) == pytest.approx(0.05)


def test_brier_by_hand() -> None:
    assert brier([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], [0, 2]) == pytest.approx((0.09 + 0.04 + 0.01 + 2.0) / 2)
    assert brier([[0.8, 0.2]], [0]) == pytest.approx(2 * 0.2**2)


def row(prediction: Any, reference: Any, confidence: list[float]) -> dict[str, Any]:
    return {"prediction": prediction, "reference": reference, "confidence": confidence}


def test_one_label_is_one_decision() -> None:
    rows = [row("a", "a", [0.75, 0.25]), row("b", "a", [0.375, 0.625])]
    assert decisions("classification", rows, ["a", "b"]) == ([0.75, 0.625], [True, False])


def test_each_of_several_labels_is_a_decision() -> None:
    rows = [row(["a"], ["a", "b"], [0.75, 0.25, 0.5])]
    assert decisions("classification", rows, ["a", "b", "c"]) == ([0.75, 0.75, 0.5], [True, False, True])


def test_each_word_is_a_decision_unless_some_were_cut_off() -> None:
    rows = [row(["O", "B-X"], ["O", "O"], [0.9, 0.6]), row(["O", "O"], ["O", "O"], [0.9])]
    assert decisions("tagging", rows, ["B-X", "O"]) == ([0.9, 0.6], [True, False])


def test_the_table_is_aligned() -> None:
    assert table(reliability(SURE, RIGHT, bins=3)).splitlines() == [
        "confidence      answers    mean   right     gap",
        "0.0-33.3              1     0.0     0.0    +0.0  #######",
        "33.3-66.7             3    55.0    66.7   +11.7  ####################",
        "66.7-100.0            2    95.0    50.0   -45.0  #############",
    ]


@pytest.mark.parametrize(
    ("sure", "right", "complaint"),
    [
        ([], [], "confidences for"),
        ([0.5], [True, False], "confidences for"),
        ([1.5], [True], "from 0 to 1"),
        ([float("nan")], [True], "from 0 to 1"),
    ],
)
def test_what_is_no_confidence_is_refused(sure: list[float], right: list[bool], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        reliability(sure, right)


def test_what_is_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        brier([[0.5, 0.6]], [0])
    with pytest.raises(ValueError, match="shape"):
        brier([[0.5, 0.5]], [0, 1])
