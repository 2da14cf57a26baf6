"""What perturbations and attacks cost: each drop of the score with the interval in which it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manta.evaluate import figures, paired
from manta.evaluate.paired import Paired
from manta.evaluate.scores import score
from manta.sections.robustness import Attack


def summarised(task: str, measured: Mapping[str, Any], attack: Attack | None, seed: int) -> dict[str, Any]:
    """{perturbations: {name: {...}}, attack: {...}} of one model's measurements, each where it was measured.

    Of a perturbation: the score in per cent, `drop` in points against the same examples as they were, the 95% interval
    of the drop by the paired bootstrap, p of both tests (see `paired.compare`), how many answers are other ones, and a
    few of those. Of the attack: accuracy before and after it in per cent, their drop likewise, the share of the rightly
    labelled examples that were flipped, and of these the mean share of words that were replaced.
    """
    found: dict[str, Any] = {}
    before = (measured["predictions"], measured["references"])
    if "perturbed" in measured:
        found["perturbations"] = {
            name: {
                "score": score(task, after["predictions"], after["references"]).score,
                **_drop(task, before, (after["predictions"], after["references"]), seed),
                "changed": sum(one != other for one, other in zip(before[0], after["predictions"], strict=True)),
                "shown": after["shown"],
            }
            for name, after in measured["perturbed"].items()
        }
    if attack is not None and "attacked" in measured:
        found["attack"] = _attack(measured["attacked"], attack, seed)
    return found


def single(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `summarised` that stand among an evaluation's."""
    drops = [each["drop"] for each in found.get("perturbations", {}).values()]
    told = {"largest_drop": max(drops)} if drops else {}
    return told | ({"attacked_accuracy": found["attack"]["attacked_accuracy"]} if "attack" in found else {})


def _drop(task: str, before: tuple[list[Any], list[Any]], after: tuple[list[Any], list[Any]], seed: int) -> dict[str, Any]:  # fmt: skip
    one, other = (figures.of_task(task, [answers], references)[0] for answers, references in (before, after))
    return _told(paired.compare(one.rows[0], other.rows[0], one.formula, seed))


def _told(found: Paired | None) -> dict[str, Any]:
    """As a drop: what is lost counts above zero."""
    if found is None:
        return {"drop": float("nan"), "interval": None, "p_swap": None, "p_bootstrap": None}
    drop, low, high = (0.0 - value for value in (found.difference, found.high, found.low))
    return {"drop": drop, "interval": [low, high], "p_swap": found.p_swap, "p_bootstrap": found.p_bootstrap}


def _attack(rows: Sequence[Mapping[str, Any]], settings: Attack, seed: int) -> dict[str, Any]:
    import numpy as np

    right = np.array([float(row["right"]) for row in rows])
    left = np.array([float(row["right"] and not row["flipped"]) for row in rows])
    ones = np.ones(len(rows))
    before, after = (np.stack([each, ones], axis=1) for each in (right, left))
    flipped = [row for row in rows if row.get("flipped")]
    tried = [row for row in rows if row["right"]]
    return {
        "examples": len(rows),
        "accuracy": 100 * float(right.mean()),
        "attacked_accuracy": 100 * float(left.mean()),
        **_told(paired.compare(before, after, lambda sums: 100 * paired.ratio(sums), seed)),
        "flipped": 100 * len(flipped) / len(tried) if tried else 0.0,
        "words_changed": 100 * _mean([len(row["changes"]) / row["num_words"] for row in flipped]),
        "asked": _mean([row["num_asked"] for row in tried]),
        "budget": 100 * settings.budget,
        "rows": list(rows),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
