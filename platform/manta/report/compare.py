"""Two runs side by side: the settings that differ, every figure that both have, and of evaluations how sure a difference is."""

from __future__ import annotations

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.errors import InputError
from manta.progress import format_figure
from manta.report import difference
from manta.storage import Folder
from manta.tune import reading


def text(a: str, b: str) -> str:
    """Compare two finished artifacts. Raises InputError if one is missing or unfinished, or evaluations judged different examples."""
    first, second = _open(a), _open(b)
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
    if first.kind == second.kind == "tune":
        lines += ["", *(_best(name, made) for name, made in (("A", first), ("B", second)))]
    if first.kind == second.kind == "evaluate":
        lines += ["", *difference.lines(first, second)]
    return "\n".join(lines)


def _open(ref: str) -> artifacts.Artifact:
    """A finished run. Raises InputError for others; a trial that its sweep ended early is not to be carried on."""
    folder = Folder(artifacts.locate(ref, "runs"))
    line = None if artifacts.is_complete(folder) else reading.line_of(folder)
    if line is not None and line["status"] in ("given up", "failed"):
        sweep = folder.url.rpartition(f"/{reading.TRIALS}/")[0]
        raise InputError(
            f"{folder.url} was {line['status']} by its sweep, so there are no last figures to compare: "
            f"`manta report {sweep}` shows it beside the others"
            if line["status"] == "given up"
            else f"{folder.url} failed ({line['reason']}): `manta report {sweep}` shows it beside the others"
        )
    return artifacts.open_artifact(ref)


def _best(name: str, made: artifacts.Artifact) -> str:
    """A sweep's winner in a line."""
    figures = made.metrics
    changed = ", ".join(f"{path} {format_figure(value)}" for path, value in figures["best_overrides"].items())
    reached = ", ".join(f"{figure} {format_figure(value)}" for figure, value in figures["objectives"].items())
    return f"best of {name}: trial {figures['best_trial']} ({changed}): {reached}"
