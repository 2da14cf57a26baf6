"""Two runs side by side: the settings that differ, every figure that both have, and of evaluations how sure a difference is."""

from __future__ import annotations

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.progress import format_figure
from manta.report import difference


def text(a: str, b: str) -> str:
    """Compare two finished artifacts. Raises InputError if one is missing or unfinished, or evaluations judged different examples."""
    first, second = artifacts.open_artifact(a), artifacts.open_artifact(b)
    lines = [
        f"A  {first.folder.url}  [{first.fingerprint[:12]}]",
        f"B  {second.folder.url}  [{second.fingerprint[:12]}]",
        "",
    ]
    if first.kind != second.kind:
        lines.append(f"A is a {first.kind} run, B a {second.kind} run")
    changed = recipes.differences(first.recipe, second.recipe)
    lines.append("settings that differ (A -> B):" if changed else "the same settings")
    lines += [f"  {line}" for line in changed]
    shared = [
        key
        for key, value in first.metrics.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and isinstance(second.metrics.get(key), (int, float))
    ]
    lines += ["", f"{'figure':<28}{'A':>14}{'B':>14}{'B - A':>14}{'B / A':>9}"]
    for key in shared:
        x, y = first.metrics[key], second.metrics[key]
        ratio = f"{y / x:.3f}" if x else "-"
        lines.append(f"{key:<28}{format_figure(x):>14}{format_figure(y):>14}{format_figure(y - x):>14}{ratio:>9}")
    if first.kind == second.kind == "evaluate":
        lines += ["", *difference.lines(first, second)]
    return "\n".join(lines)
