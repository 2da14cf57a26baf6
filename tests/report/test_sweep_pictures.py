"""Pictures of sweeps: every trial at the place that its figures ask for, worked out by hand."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from manta.report import sweep_pictures as pictures
from manta.report.sweep_pictures import Axis, Dot, Scale, Strand, Thread


def places(text: str | None) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in (text or "").split())]


def test_a_scale_is_linear_or_logarithmic() -> None:
    assert Scale(2.0, 6.0).share(3.0) == 0.25
    assert Scale(1e-4, 1e-2, log=True).share(1e-3) == pytest.approx(0.5)
    assert Scale(2.0, 6.0).share(9.0) == 1.0, "what lies beyond is at the edge"
    assert Scale(2.0, 2.0).share(2.0) == 0.5


def test_values_that_are_far_off_do_not_squeeze_the_others() -> None:
    usual = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert pictures.spread([*usual, math.nan, math.inf]) == Scale(1.0, 5.0)
    assert pictures.spread([*usual, 1e9]) == Scale(1.0, 5.0)
    assert pictures.spread([*usual, 1e9], keep=[11.0]) == Scale(1.0, 11.0)
    assert pictures.spread([2.0, 2.0, 2.0, 9.0]) == Scale(2.0, 9.0), "without a spread nothing is far off"
    assert pictures.spread([]) == Scale(0.0, 1.0)


def test_a_history_places_each_trial_and_steps_down() -> None:
    dots = [
        Dot(0, 4.0, "done", "a<b"),
        Dot(1, math.nan, "failed", "no"),
        Dot(2, 2.0, "best", "c"),
        Dot(4, 3.0, "open", "d"),
    ]
    tree = ElementTree.fromstring(pictures.history(dots, [(0, 4.0), (2, 2.0)], "loss (min)"))
    # The plot is 70 .. 884 across and, of a height of 260, 24 .. 226 down: trial 4 is at the right edge, 4.0 at the upper.
    found = [(float(c.get("cx", 0)), float(c.get("cy", 0)), c.get("class")) for c in tree.iter("circle")]
    assert found == [(70.0, 24.0, "done"), (477.0, 226.0, "best"), (884.0, 125.0, "open")]
    [cross] = tree.iter("path")
    assert (cross.get("d") or "").startswith("M269.5 230.0"), "four above and left of (273.5, 234), below the axis"
    [line] = tree.iter("polyline")
    assert places(line.get("points")) == [(70, 24), (477, 24), (477, 226), (884, 226)]
    assert [c.findtext("title") for c in tree.iter("circle")] == ["a<b", "c", "d"]


def test_two_figures_and_their_limits() -> None:
    dots = [Dot(10.0, 1.0, "front", "a"), Dot(20.0, 0.0, "front", "b"), Dot(math.inf, 0.5, "open", "c")]
    tree = ElementTree.fromstring(pictures.scatter(dots, [(20.0, 0.0), (10.0, 1.0)], ("ms", "loss"), ([15.0], [])))
    found = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in tree.iter("circle")]
    assert found == [(70.0, 24.0), (884.0, 286.0)]
    [limit] = [line for line in tree.iter("line") if line.get("class") == "limit"]
    assert (limit.get("x1"), limit.get("x2")) == ("477.0", "477.0")
    [front] = tree.iter("polyline")
    assert places(front.get("points")) == [(70, 24), (884, 286)]


def test_parallel_axes_leave_room_for_fields_that_are_not_there() -> None:
    axes = [Axis("lr", [(0.0, "low"), (1.0, "high")]), Axis("rank", [(0.5, "8")]), Axis("loss", [])]
    strands = [Strand([0.0, 0.5, 1.0], 0.0, "best", "a"), Strand([1.0, None, 0.0], 0.5, "done", "b")]
    tree = ElementTree.fromstring(pictures.parallel(axes, strands))
    done, best = tree.iter("polyline")
    # Axes stand at 75, 450 and 825; they reach from 270 up to 40.
    assert places(best.get("points")) == [(75, 270), (450, 155), (825, 40)]
    assert places(done.get("points")) == [(75, 40), (450, 296), (825, 270)]
    assert done.get("stroke-opacity") == "0.50"
    texts = [text.text for text in tree.iter("text")]
    assert texts == ["lr", "low", "high", "rank", "8", "not there", "loss"]


def test_a_curve_of_one_point_is_a_dot() -> None:
    threads = [Thread([(0, 4.0), (10, 2.0)], "best", "a"), Thread([(5, 3.0)], "off", "b")]
    tree = ElementTree.fromstring(pictures.curves(threads, "loss"))
    [line], [dot] = tree.iter("polyline"), tree.iter("circle")
    assert places(line.get("points")) == [(70, 24), (884, 286)]
    assert (dot.get("cx"), dot.get("cy"), dot.get("class")) == ("477.0", "155.0", "open")
