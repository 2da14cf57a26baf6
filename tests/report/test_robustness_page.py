"""The page of an evaluation with changed texts, an attack and explanations: bars, tables, coloured words, all escaped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from manta.report import explanations, pictures, robustness
from manta.report.pictures import Drop
from manta.storage import Folder

TRIED: dict[str, Any] = {
    "perturbations": {
        "typos": {
            "score": 70.0, "drop": 20.0, "interval": [10.0, 30.0], "p_swap": 0.0123, "p_bootstrap": 0.01, "changed": 1204,
            "shown": [{"example": 7, "before": "a <good> film", "after": "a <god> film", "answer": "a&b", "answer_after": "c"}],
        },
        "upper": {"score": 92.5, "drop": -2.5, "interval": [-5.0, 0.0], "p_swap": 1.0, "p_bootstrap": 1.0, "changed": 3, "shown": []},
        "broken": {"score": None, "drop": None, "interval": None, "p_swap": None, "p_bootstrap": None, "changed": 0, "shown": []},
    },
    "attack": {
        "examples": 50, "accuracy": 90.0, "attacked_accuracy": 40.0, "drop": 50.0, "interval": [36.0, 64.0], "flipped": 55.6,
        "words_changed": 12.5, "asked": 61.0, "budget": 20.0,
        "rows": [
            {"example": 3, "label": "a&b", "right": True, "flipped": True, "answer_after": "c", "text": "a <dull> film", "changes": [[1, "fine", "<dull>"]]},
            {"example": 4, "label": "c", "right": False},
        ],
    },
}  # fmt: skip


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_drops_are_bars_from_zero_with_their_intervals() -> None:
    tree = ElementTree.fromstring(pictures.drops([Drop("a<b", 20.0, 10.0, 30.0), Drop("upper", -10.0, -20.0, 0.0)]))
    zero, *lines = tree.iter("line")
    middle = float(zero.get("x1", 0))
    first, second = tree.iter("rect")
    assert first.findtext("title") == "a<b: 20.00 points, 10.00 to 30.00"
    ends = [(float(bar.get("x", 0)), float(bar.get("x", 0)) + float(bar.get("width", 0))) for bar in (first, second)]
    point = (ends[0][1] - middle) / 20
    assert ends[0][0] == pytest.approx(middle, abs=0.1) == ends[1][1], "both begin or end at zero"
    assert ends[1][0] == pytest.approx(middle - 10 * point, abs=0.2)
    spans = [(float(line.get("x1", 0)), float(line.get("x2", 0))) for line in lines]
    assert spans[0] == pytest.approx((middle + 10 * point, middle + 30 * point), abs=0.3)
    assert spans[1] == pytest.approx((middle - 20 * point, middle), abs=0.3)
    ElementTree.fromstring(pictures.drops([Drop("same", 0.0, 0.0, 0.0)]))


def test_the_page_says_what_changed_texts_cost() -> None:
    text = words_of("".join(robustness.sections(TRIED)))
    assert "<tr><td>typos<td>70<td>20<td>10 to 30<td>0.0123<td>1,204" in text
    assert "<tr><td>broken<td>not a number<td>not a number<td>not known<td>not known<td>0" in text
    assert text.count("<rect") == 2, "what is no number has no bar"
    assert "typos, example 7: a&amp;b became c" in text and "a &lt;good&gt; film a &lt;god&gt; film" in text
    assert "Of 50 examples 90% are labelled rightly, and 40% still when up to 20%" in text
    assert "example 3: a&amp;b became c (fine -&gt; &lt;dull&gt;)" in text and "example 4" not in text
    assert "http" not in text and list(robustness.sections({})) == []


def test_words_are_coloured_by_their_share(tmp_path: Path) -> None:
    words = [
        {"field": "text", "start": 2, "end": 6, "text": "<ok>", "attribution": 3.0, "share": 0.75},
        {"field": "text", "start": 7, "end": 11, "text": "film", "attribution": -1.0, "share": -0.25},
    ]
    found = {
        "example": 5, "text": "a <ok> film!", "reference": ["a&b"], "prediction": "c", "value": 2.0, "baseline": 0.0, "gap": 0.001,
        "steps": 16, "complete": True, "words": words,
    }  # fmt: skip
    folder = Folder(tmp_path)
    assert list(explanations.sections(folder)) == []
    folder.write_text("explanations.jsonl", json.dumps(found) + "\n")
    text = words_of("".join(explanations.sections(folder)))
    assert "example 5: c (wanted: a&amp;b)" in text
    one, other = (f"background: rgb({tone} / {strength})" for tone, strength in ((explanations.FOR, 0.64), (explanations.AGAINST, 0.21)))  # fmt: skip
    assert (
        f'a <span style="{one}" title="+75.0%">&lt;ok&gt;</span> <span style="{other}" title="-25.0%">film</span>!'
        in text
    )
    assert "&lt;ok&gt; +75.0%, film -25.0%" in text and "gap +0.001 after 16 points</p>" in text
    folder.write_text("explanations.jsonl", json.dumps({**found, "complete": False}) + "\n")
    assert "which is too much" in "".join(explanations.sections(folder)) and "<script" not in text
