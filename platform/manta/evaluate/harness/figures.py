"""Figures of lm_eval's tasks: their intervals, and those that two evaluations can be compared by, question by question."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manta.artifact import Artifact
from manta.errors import InputError
from manta.evaluate import recovery
from manta.evaluate.bootstrap import Formula
from manta.evaluate.figures import Figure
from manta.evaluate.paired import ratio

if TYPE_CHECKING:
    import numpy as np

REPORT, SAMPLES = "harness.json", "harness_samples.jsonl"
ROLE = "evaluate.harness.folder"
NORMAL = 1.959964  # standard errors on either side that hold 95%
TOGETHER = "evaluate both with the same evaluate.harness.folder, tasks and limit, and compare those"


def _mean(sums: np.ndarray) -> np.ndarray:
    return ratio(sums)


def _perplexity(sums: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.exp(-ratio(sums))


def _bits(sums: np.ndarray) -> np.ndarray:
    return -ratio(sums) / math.log(2)


# lm_eval's way of putting questions' values together -> the same as a formula over sums. A question's value is one number,
# or of the last two [ln p of a text, how many words or bytes it has].
FORMULAS: dict[str, Formula] = {
    "mean": _mean,
    "perplexity": _perplexity,
    "weighted_perplexity": _perplexity,
    "bits_per_byte": _bits,
}


def name_of(metric: Mapping[str, Any]) -> str:
    """TASK/METRIC, and ",FILTER" behind it where a task has filters of its own."""
    plain = f"{metric['task']}/{metric['metric']}"
    return plain if metric["filter"] == "none" else f"{plain},{metric['filter']}"


def interval(metric: Mapping[str, Any], values: Sequence[Any], seed: int) -> tuple[float, float] | None:
    """Where a figure lies with 95% confidence.

    The figure and 1.96 of lm_eval's standard errors on either side; where lm_eval gives none (perplexities of words and
    bytes), the bootstrap over questions. None where neither is known.
    """
    if metric["stderr"] is not None:
        reach = NORMAL * metric["stderr"]
        return metric["value"] - reach, metric["value"] + reach
    if metric["aggregation"] not in FORMULAS or not values:
        return None
    return recovery.interval(rows(values), FORMULAS[metric["aggregation"]], seed)


def rows(values: Sequence[Any]) -> np.ndarray:
    """Summands of questions, (questions, 2) float64: of a single number beside a one that counts it."""
    import numpy as np

    return np.array([value if isinstance(value, list) else [value, 1.0] for value in values], dtype=np.float64)


def compared(a: Artifact, b: Artifact) -> list[Figure]:
    """The figures of tasks that both evaluations hold, in pairs of questions.

    Raises InputError where both asked a task, but not the same questions of the same files.
    """
    if not (a.folder.exists(REPORT) and b.folder.exists(REPORT)):
        return []
    contents = [made.manifest["inputs"][ROLE]["content"] for made in (a, b)]
    reports = [{name_of(metric): metric for metric in _read(made)["metrics"]} for made in (a, b)]
    shared = [name for name in reports[0] if name in reports[1]]
    if shared and contents[0] != contents[1]:
        raise InputError(
            f"A and B were asked questions of different files, so a difference would say nothing: {ROLE} is [{contents[0][:12]}] in A "
            f"and [{contents[1][:12]}] in B: {TOGETHER}"
        )
    asked = [_samples(made) for made in (a, b)]
    found = []
    for name in shared:
        metric = reports[0][name]
        if metric["aggregation"] not in FORMULAS:
            continue
        one, other = (side[(metric["task"], metric["filter"])] for side in asked)
        if [row["doc_hash"] for row in one] != [row["doc_hash"] for row in other]:
            raise InputError(
                f"A and B were asked other questions of {metric['task']} ({len(one)} and {len(other)}): {TOGETHER}"
            )
        values = [[row["metrics"].get(metric["metric"]) for row in side] for side in (one, other)]
        if any(_holed(value) for side in values for value in side):
            continue
        formula = FORMULAS[metric["aggregation"]]
        found.append(Figure(name, [rows(side) for side in values], formula, not metric["higher_is_better"]))
    return found


def _holed(value: Any) -> bool:
    """Whether a question has no such value, or one that is not a number."""
    return value is None or (isinstance(value, list) and None in value)


def _read(made: Artifact) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(made.folder.read_text(REPORT))
    return report


def _samples(made: Artifact) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Each task's questions by (task, filter), in their order."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in made.folder.read_text(SAMPLES).splitlines():
        row = json.loads(line)
        found.setdefault((row["task"], row["filter"]), []).append(row)
    return found
