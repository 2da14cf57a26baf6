"""Pictures: well-formed, self-contained, and every number at the cell or bar it belongs to."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from manta.evaluate.calibration import Bin
from manta.report import pictures

SVG = ElementTree.Element


def parsed(text: str) -> SVG:
    assert "http" not in text
    return ElementTree.fromstring(text)


def bars(tree: SVG, kind: str | None = None) -> list[SVG]:
    return [bar for bar in tree.iter("rect") if kind is None or bar.get("class") == kind]


def told(bar: SVG) -> str:
    return bar.findtext("title") or ""


def test_each_cell_of_a_confusion_matrix_says_its_count() -> None:
    tree = parsed(pictures.confusion(["a<b", "c&d"], np.array([[3, 1], [0, 1200]])))
    cells = bars(tree)
    assert [told(cell) for cell in cells] == [
        "a<b taken for a<b: 3 of 4",
        "a<b taken for c&d: 1 of 4",
        "c&d taken for a<b: 0 of 1,200",
        "c&d taken for c&d: 1,200 of 1,200",
    ]
    places = [(float(cell.get("x", 0)), float(cell.get("y", 0))) for cell in cells]
    assert places[0][1] == places[1][1] < places[2][1] == places[3][1], "a row is a true class"
    assert places[0][0] == places[2][0] < places[1][0] == places[3][0], "a column is a predicted class"
    assert [text.text for text in tree.iter("text") if "middle" in text.get("text-anchor", "")] == ["3", "1", "1,200"]
    shades = [float(cell.get("style", "").rpartition(":")[2]) for cell in cells]
    assert shades == pytest.approx([0.06 + 0.64 * share for share in (0.75, 0.25, 0, 1)], abs=0.005)


def test_rare_classes_are_put_together_and_none_is_lost() -> None:
    counts = np.diag(np.arange(30, 0, -1))
    counts[0, 29] = 7
    tree = parsed(pictures.confusion([f"class {number:02}" for number in range(30)], counts))
    cells = bars(tree)
    assert len(cells) == pictures.CLASSES**2
    assert told(cells[0]) == "class 00 taken for class 00: 30 of 37"
    # what class 29 was, and classes 19 to 28: 11 + 10 + ... + 1, is now "others", as is what was taken for class 29
    assert told(cells[pictures.CLASSES - 1]) == "class 00 taken for (11 others): 7 of 37"
    assert told(cells[-1]) == "(11 others) taken for (11 others): 66 of 66"


def test_a_reliability_diagram_has_a_bar_and_a_line_for_each_bin() -> None:
    bins = [Bin(0.0, 0.5, 40, 0.3, 0.25), Bin(0.5, 0.75, 0, None, None), Bin(0.75, 1.0, 10, 0.9, 1.0)]
    tree = parsed(pictures.reliability(bins))
    right, held = bars(tree, "right"), bars(tree, "held")
    assert [told(bar) for bar in right] == [
        "0.00 to 0.50: 40 answers, 30.0% sure, 25.0% right",
        "0.75 to 1.00: 10 answers, 90.0% sure, 100.0% right",
    ]
    assert [float(bar.get("height", 0)) for bar in right] == pytest.approx([75.0, 300.0])
    assert [float(bar.get("y", 0)) + float(bar.get("height", 0)) for bar in right] == pytest.approx([314.0] * 2)
    assert [float(bar.get("height", 0)) for bar in held] == pytest.approx([90.0, 22.5])
    marks = [line for line in tree.iter("line") if line.get("style")]
    assert [float(line.get("y1", 0)) for line in marks] == pytest.approx([314 - 90, 314 - 270])
