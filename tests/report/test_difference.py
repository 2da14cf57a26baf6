"""Comparing evaluations: a planted difference is found, chance is not called one, and different examples are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.errors import InputError
from manta.evaluate.paired import Paired
from manta.report import compare, difference
from tests.report.evaluations import written

NUM = 80


def labels(accuracy: float, seed: int) -> list[str]:
    """Answers to `truth()` of which about that share is right."""
    random = np.random.default_rng(seed)
    return [label if random.random() < accuracy else "wrong" for label in truth()]


def truth() -> list[str]:
    return ["yes", "no"] * (NUM // 2)


def line_of(text: str, figure: str) -> str:
    """The line of a figure in the second table."""
    return next(line for line in text.partition("on the same examples")[2].splitlines() if line.startswith(figure))


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    a = written(tmp_path, "a", task="classification", predictions=labels(0.6, 1), references=truth())
    b = written(tmp_path, "b", task="classification", predictions=labels(0.9, 2), references=truth())
    text = compare.text(a, b)
    assert "model.source: 'a' -> 'b'" in text or "model.source: a -> b" in text
    line = line_of(text, "accuracy")
    assert line.endswith("B is better")
    right = [sum(x == y for x, y in zip(labels(*of), truth(), strict=True)) for of in ((0.6, 1), (0.9, 2))]
    assert line.split()[1] == f"{100 * right[0] / NUM:.4g}"
    assert f"+{100 * (right[1] - right[0]) / NUM:.4g} [" in line
    assert "A is better" in line_of(compare.text(b, a), "accuracy")


def test_chance_is_not_called_a_difference(tmp_path: Path) -> None:
    a = written(tmp_path, "a", task="classification", predictions=labels(0.7, 1), references=truth())
    b = written(tmp_path, "b", task="classification", predictions=labels(0.7, 2), references=truth())
    for figure in ("score", "accuracy", "macro_f1"):
        assert line_of(compare.text(a, b), figure).endswith("no difference shown")
    same = compare.text(a, a)
    assert "+0 [+0, +0]" in line_of(same, "accuracy")
    assert "B is better on 0, worse on 0; 0 are answered otherwise" in same


def test_perplexity_is_better_where_it_is_lower(tmp_path: Path) -> None:
    nll = np.random.default_rng(0).uniform(2, 4, size=30) * 50
    for name, factor in (("a", 1.0), ("b", 0.95)):
        written(tmp_path, name, task="chat", nll=(nll * factor).tolist(), tokens=[50] * 30)
    line = line_of(compare.text(f"{tmp_path}/a", f"{tmp_path}/b"), "perplexity")
    assert line.endswith("B is better")
    assert line.split()[1] == f"{np.exp(nll.sum() / 1500):.4g}"


def test_the_examples_that_changed_are_shown(tmp_path: Path) -> None:
    wanted = ["return the list", "a b", "c d", "e"]
    a = written(tmp_path, "a", task="summarisation", predictions=["no", "a b", "c d", "x"], references=wanted)
    b = written(
        tmp_path, "b", task="summarisation", predictions=["return the list", "a x", "c d", "y"], references=wanted
    )
    text = compare.text(a, b)
    assert "of 4 examples B is better on 1, worse on 1; 1 are answered otherwise and as well" in text
    shown = text.splitlines()
    at = shown.index("  example 0: 0.0 -> 100.0")
    assert shown[at + 1] == "    wanted: return the list; A: no; B: return the list"
    assert "  example 1: 100.0 -> 50.0" in shown
    assert "example 2" not in text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"content": "2" * 64},
            r"different examples.*data\.examples is 'e\.jsonl' \[1{12}\] in A and 'e\.jsonl' \[2{12}\]",
        ),
        ({"predictions": ["yes"], "references": ["yes"]}, r"other examples of the same file \(80 and 1 of them"),
        ({"task": "chat"}, "A was scored as classification, B as chat"),
    ],
)
def test_different_examples_are_refused_with_a_remedy(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    given: dict[str, Any] = {"task": "classification", "predictions": labels(0.6, 1), "references": truth()}
    a, b = written(tmp_path, "a", **given), written(tmp_path, "b", **(given | change))
    with pytest.raises(InputError, match=complaint) as refused:
        compare.text(a, b)
    assert "evaluate both with the same data" in str(refused.value)


def test_long_answers_stand_below_each_other_and_are_cut(tmp_path: Path) -> None:
    given: dict[str, Any] = {"task": "summarisation", "references": ["word " * 40]}
    a, b = written(tmp_path, "a", predictions=["no"], **given), written(tmp_path, "b", predictions=["word"], **given)
    shown = compare.text(a, b).splitlines()
    assert shown[-3] == f"    wanted: {'word ' * 19}wo..."
    assert shown[-2:] == ["    A: no", "    B: word"]


def test_different_rows_are_refused(tmp_path: Path) -> None:
    a = written(tmp_path, "a", task="chat", nll=[1.0], tokens=[4])
    b = written(tmp_path, "b", task="chat", nll=[1.0, 2.0], tokens=[4, 4])
    with pytest.raises(InputError, match=r"other rows \(1 and 2 of them"):
        compare.text(a, b)


def test_a_broken_model_has_no_perplexity_to_compare(tmp_path: Path) -> None:
    a = written(tmp_path, "a", task="chat", nll=[1.0], tokens=[4], predictions=["a"], references=["a"])
    b = written(tmp_path, "b", task="chat", nll=[float("nan")], tokens=[4], predictions=["b"], references=["a"])
    text = compare.text(a, b).partition("on the same examples")[2]
    assert "perplexity" not in text
    assert "score" in text


def test_nothing_in_common_is_said(tmp_path: Path) -> None:
    a = written(tmp_path, "a", task="chat", nll=[1.0], tokens=[4])
    b = written(tmp_path, "b", task="chat", predictions=["b"], references=["a"])
    assert "no figure was measured for both" in compare.text(a, b)


def test_both_tests_must_agree() -> None:
    found = Paired(1.0, 0.1, 2.0, p_bootstrap=0.03, p_swap=0.06, exact=True)
    assert difference.verdict(found, lower_is_better=False) == "no difference shown"
    assert difference.verdict(found._replace(p_swap=0.02), lower_is_better=False) == "B is better"
    assert difference.verdict(found._replace(p_swap=0.02), lower_is_better=True) == "A is better"
