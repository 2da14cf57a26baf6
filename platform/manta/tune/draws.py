"""Distributions: how a number in [0, 1) becomes a value of a field, and which arguments make no distribution."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

Draw = Callable[[Any, float], Any]  # (the distribution's argument, a number in [0, 1)) -> value


class Entry(NamedTuple):
    """One field of a space: its distribution, the argument of it, and the other fields' values under which it is there."""

    name: str
    argument: Any
    when: dict[str, list[Any]]


def entry(raw: dict[str, Any]) -> Entry:
    """One entry of `search.space` that `complaint` has nothing to say about."""
    when = {path: value if isinstance(value, list) else [value] for path, value in raw.get("when", {}).items()}
    [(name, argument)] = ((key, value) for key, value in raw.items() if key != "when")
    return Entry(name, argument, when)


def draw_choice(values: list[Any], unit: float) -> Any:
    return values[int(unit * len(values))]


def draw_uniform(bounds: list[float], unit: float) -> float:
    return within(bounds, bounds[0] + unit * (bounds[1] - bounds[0]))


def draw_loguniform(bounds: list[float], unit: float) -> float:
    low, high = map(math.log, bounds)
    return within(bounds, math.exp(low + unit * (high - low)))


def draw_randint(bounds: list[int], unit: float) -> int:
    """Both bounds are possible."""
    low, high = bounds
    return low + int(unit * (high - low + 1))


DISTRIBUTIONS: dict[str, Draw] = {
    "choice": draw_choice,
    "uniform": draw_uniform,
    "loguniform": draw_loguniform,
    "randint": draw_randint,
}


def values(found: Entry) -> list[Any] | None:
    """All values of an entry; None where it is a range of real numbers."""
    if found.name == "choice":
        return list(found.argument)
    return list(range(found.argument[0], found.argument[1] + 1)) if found.name == "randint" else None


def ends(found: Entry) -> list[Any]:
    """Every choice, or the two ends of a range: what a schema may refuse."""
    if found.name == "choice":
        return list(found.argument)
    return [DISTRIBUTIONS[found.name](found.argument, unit) for unit in (0.0, 1 - 1e-12)]


def complaint(raw: dict[str, Any]) -> tuple[str, Any, str] | None:
    """What makes an entry no distribution: (key below it or "", the value there, the remedy); None if nothing does."""
    named = [key for key in raw if key != "when"]
    if len(named) != 1 or named[0] not in DISTRIBUTIONS:
        near = difflib.get_close_matches(named[0] if named else "", DISTRIBUTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return "", raw, f"give exactly one of {', '.join(DISTRIBUTIONS)}{hint}"
    when = raw.get("when", {})
    if not isinstance(when, dict):
        return "when", when, "needs fields of the space and their values, such as {adapt.method: [lora, dora]}"
    name, argument = named[0], raw[named[0]]
    found = _argument_complaint(name, argument)
    return None if found is None else (name, argument, found)


def _argument_complaint(name: str, argument: Any) -> str | None:
    if name == "choice":
        if not isinstance(argument, list) or not argument:
            return "needs a list of values, such as [1, 2]"
        return "holds a value twice: keep one" if any(argument.count(value) > 1 for value in argument) else None
    number = int if name == "randint" else (int, float)
    if not (
        isinstance(argument, list)
        and len(argument) == 2
        and all(isinstance(bound, number) and not isinstance(bound, bool) for bound in argument)
    ):
        kind = "whole numbers" if name == "randint" else "numbers"
        return f"needs two {kind}: [lowest, highest]"
    if not (math.isfinite(argument[0]) and math.isfinite(argument[1]) and argument[0] < argument[1]):
        return "the first number must be below the second"
    return "needs numbers above 0" if name == "loguniform" and argument[0] <= 0 else None


def within(bounds: list[float], value: float) -> float:
    """Four significant digits, a setting that a person can read and type again; never beyond the bounds."""
    low, high = bounds
    return min(max(float(f"{value:.4g}"), low), high)
