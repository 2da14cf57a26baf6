"""Figures as formulas over sums: the same numbers as the tasks' own scores, of the whole set and of each answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from manta.evaluate import figures
from manta.evaluate.perplexity import perplexity
from manta.evaluate.scores import score

CASES: list[tuple[str, list[Any], list[Any], list[Any]]] = [
    (
        "summarisation",
        ["return the list", "no", "a b c"],
        ["return it", "yes", "a b"],
        ["return the list", "yes", "a c"],
    ),
    ("chat", ["the cat sat", "no idea"], ["a dog", "yes"], ["the cat sat on it", "I have no idea"]),
    ("classification", ["a", "b", "b"], ["a", "c", "a"], ["a", "b", "a"]),
    ("classification", [["a", "b"], [], ["b"]], [["a"], [], ["c"]], [["a"], [], ["b", "c"]]),
    ("tagging", [["B-X", "O"], ["O"]], [["B-X", "I-X"], ["B-Y"]], [["B-X", "I-X"], ["O"]]),
    ("tagging", [["NOUN", "VERB"], ["X"]], [["NOUN", "NOUN"], ["VERB"]], [["NOUN", "VERB"], ["VERB"]]),
]


def whole(figure: figures.Figure, model: int) -> float:
    return float(figure.formula(figure.rows[model].sum(0)[None])[0])


@pytest.mark.parametrize(("task", "a", "b", "references"), CASES)
def test_sums_make_the_tasks_own_figures(task: str, a: list[Any], b: list[Any], references: list[Any]) -> None:
    found = figures.of_task(task, [a, b], references)
    assert found[0].name == "score"
    for model, answers in enumerate((a, b)):
        own = score(task, answers, references)
        for figure in found:
            if figure.name in own.figures:
                assert whole(figure, model) == pytest.approx(own.figures[figure.name]), figure.name
    assert all(figure.rows[0].shape == figure.rows[1].shape for figure in found)


def test_an_answer_alone_has_its_own_score() -> None:
    task, a, b, references = CASES[0]
    [first, *_] = figures.of_task(task, [a, b], references)
    assert first.each(1) == pytest.approx(score(task, b, references).each)


def test_a_text_without_entities_in_which_none_is_found_is_right() -> None:
    task, a, b, references = CASES[4]
    [first, _] = figures.of_task(task, [a, b], references)
    assert first.each(0).tolist() == [0.0, 100.0]
    assert first.each(1).tolist() == [100.0, 0.0]


def test_rouge_and_bleu_stand_beside_the_score() -> None:
    names = [figure.name for figure in figures.of_task(*CASES[0][:1], [CASES[0][1]], CASES[0][3])]
    assert names == ["score", "rouge_1", "rouge_2", "token_f1", "exact_match"]
    assert [figure.name for figure in figures.of_task("chat", [["a"]], ["a"])] == ["score", "bleu"]


def test_perplexity_is_the_one_of_the_evaluation() -> None:
    figure = figures.of_likelihoods([[3 * math.log(2), math.log(8)], [1.0, 2.0]], [3, 1])
    assert figure.lower_is_better
    assert whole(figure, 0) == pytest.approx(perplexity([3 * math.log(2), math.log(8)], [3, 1]))
    assert whole(figure, 1) == pytest.approx(math.exp(3 / 4))
    assert np.allclose(figure.each(0), [2.0, 8.0])
