"""Two evaluations on the same examples: each figure of both with its interval, how sure the difference is, and what changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from manta.artifact import Artifact
from manta.errors import InputError
from manta.evaluate import bootstrap, figures, paired
from manta.evaluate.figures import Figure
from manta.evaluate.harness import figures as harness

SCORES = "scores.json"
SEED = 0  # of the resamples, so that a comparison says the same whenever it is asked
LEVEL = 0.95
SHOWN, CHARS = 8, 100  # examples that changed, characters of each text
TOGETHER = (
    "evaluate both with the same data, seed, evaluate.task, evaluate.task_samples and evaluate.perplexity_rows, "
    "and compare those"
)


class Both(NamedTuple):
    """What two evaluations hold: `task` and `examples` where both answered one, `rows` where both have likelihoods."""

    task: str | None
    examples: tuple[list[dict[str, Any]], list[dict[str, Any]]] | None
    rows: tuple[dict[str, Any], dict[str, Any]] | None


def lines(a: Artifact, b: Artifact) -> Iterator[str]:
    """The comparison of two evaluate artifacts, as lines. Raises InputError if they did not judge the same examples."""
    both = read(a, b)
    asked = harness.compared(a, b)
    if both.examples is None and both.rows is None and not asked:
        yield "no figure was measured for both: one has a task's score, the other perplexity"
        return
    yield f"on the same examples (in brackets: {LEVEL:.0%} intervals; p: two-sided, by swapping answers and by resampling)"
    yield f"{'figure':<16}{'A':>28}{'B':>28}{'B - A':>30}{'p swap':>9}{'p boot':>9}"
    if both.rows is not None:
        likelihoods = [side["model"] for side in both.rows]
        yield _figure(figures.of_likelihoods(likelihoods, both.rows[0]["tokens"]))
    yield from map(_figure, asked)
    if both.task is not None and both.examples is not None:
        answers = [[row["prediction"] for row in side] for side in both.examples]
        references = [row["reference"] for row in both.examples[0]]
        found = figures.of_task(both.task, answers, references)
        yield from map(_figure, found)
        yield ""
        yield from _changed(found[0], answers, references)


def read(a: Artifact, b: Artifact) -> Both:
    """What both measured. Raises InputError where both measured something, but not on the same examples, rows or task."""
    one, other = (json.loads(made.folder.read_text(SCORES)) for made in (a, b))
    task, examples, rows = None, None, None
    if "examples" in one and "examples" in other:
        _refuse_other_data(a, b, "examples", shards=False)
        task = one["task"]["name"]
        if task != other["task"]["name"]:
            raise InputError(f"A was scored as {task}, B as {other['task']['name']}: {TOGETHER}")
        if [row["reference"] for row in one["examples"]] != [row["reference"] for row in other["examples"]]:
            counts = f"{len(one['examples'])} and {len(other['examples'])}"
            raise InputError(f"A and B were scored on other examples of the same file ({counts} of them): {TOGETHER}")
        examples = (one["examples"], other["examples"])
    if "nll" in one and "nll" in other:
        _refuse_other_data(a, b, "rows", shards=True)
        if one["nll"]["tokens"] != other["nll"]["tokens"]:
            counts = f"{len(one['nll']['tokens'])} and {len(other['nll']['tokens'])}"
            raise InputError(f"the perplexities of A and B are those of other rows ({counts} of them): {TOGETHER}")
        # A broken model's likelihoods are null: it has no perplexity to compare.
        whole = all(value is not None for side in (one, other) for value in side["nll"]["model"])
        rows = (one["nll"], other["nll"]) if whole else None
    return Both(task, examples, rows)


def _refuse_other_data(a: Artifact, b: Artifact, what: str, shards: bool) -> None:
    """Raise InputError unless both read the same shards, or the same data but for shards, byte by byte."""
    for role in sorted({*a.manifest["inputs"], *b.manifest["inputs"]}):
        if not role.startswith("data.") or (role == "data.shards") != shards:
            continue
        one, other = (made.manifest["inputs"].get(role) for made in (a, b))
        if one is None or other is None or one["content"] != other["content"]:
            told = [f"{side['ref']!r} [{side['content'][:12]}]" if side else "not set" for side in (one, other)]
            raise InputError(
                f"A and B were measured on different {what}, so a difference would say nothing: {role} is {told[0]} in A and "
                f"{told[1]} in B: {TOGETHER}"
            )


def _figure(figure: Figure) -> str:
    """One figure's line of the table."""
    one, other = figure.rows
    cells = [
        _with_interval(bootstrap.interval(bootstrap.of_sums(rows, figure.formula), len(rows), SEED))
        for rows in (one, other)
    ]
    found = paired.compare(one, other, figure.formula, SEED, LEVEL)
    lead = f"{figure.name:<16}{cells[0]:>28}{cells[1]:>28}"
    if found is None:
        return lead + f"{'not a number':>30}"
    apart = f"{found.difference:+.4g} [{found.low:+.4g}, {found.high:+.4g}]"
    return f"{lead}{apart:>30}{found.p_swap:>9.4f}{found.p_bootstrap:>9.4f}  {verdict(found, figure.lower_is_better)}"


def verdict(found: paired.Paired, lower_is_better: bool) -> str:
    """Which model is better, said only where both tests call the difference more than chance at the level of the intervals."""
    if max(found.p_swap, found.p_bootstrap) >= 1 - LEVEL:
        return "no difference shown"
    return "B is better" if (found.difference > 0) != lower_is_better else "A is better"


def _with_interval(found: bootstrap.Interval | None) -> str:
    return f"{found.estimate:.4g} [{found.low:.4g}, {found.high:.4g}]" if found else "not a number"


def _changed(figure: Figure, answers: list[list[Any]], references: list[Any]) -> Iterator[str]:
    """How many examples got better and worse, and those that changed most."""
    one, other = figure.each(0), figure.each(1)
    change = (other - one).tolist()
    better, worse = sum(value > 0 for value in change), sum(value < 0 for value in change)
    reworded = sum(a != b and not value for a, b, value in zip(*answers, change, strict=True))
    yield f"of {len(change)} examples B is better on {better}, worse on {worse}; {reworded} are answered otherwise and as well"
    ranked = sorted((number for number, value in enumerate(change) if value), key=lambda number: -abs(change[number]))
    for number in ranked[:SHOWN]:
        told = [("wanted", references[number]), ("A", answers[0][number]), ("B", answers[1][number])]
        said = [f"{name}: {_cut(value)}" for name, value in told]
        yield f"  example {number}: {one[number]:.1f} -> {other[number]:.1f}"
        yield from [f"    {'; '.join(said)}"] if sum(map(len, said)) <= CHARS else (f"    {line}" for line in said)
    if len(ranked) > SHOWN:
        yield f"  and {len(ranked) - SHOWN} more, in both {SCORES}"


def _cut(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return text if len(text) <= CHARS else f"{text[: CHARS - 3]}..."
