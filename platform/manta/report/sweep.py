"""The page of a sweep: the winner, history, fields side by side, what matters, trade-offs, curves, the table of trials."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from typing import Any

from manta.artifact import Artifact
from manta.progress import format_figure
from manta.report import sweep_pictures as pictures
from manta.report.sweep_pictures import Axis, Dot, Scale, Strand, Thread
from manta.sections.search import Search
from manta.tune import choice, draws, reading
from manta.tune.board import short_names
from manta.tune.reading import Line, Sweep

POINTS = 12_000  # of all curves together, so that hundreds of trials stay quick to look at
PAIRS = 6  # pictures of two figures each
CHARS = 120  # of a reason, or of what is told of a trial


def sections(made: Artifact) -> Iterator[str]:
    """Pieces of HTML for the page of a `tune` artifact, finished or not."""
    sweep = reading.read(made.folder, made.manifest)
    yield pictures.STYLE
    yield f"<p>{_text(summary(sweep))}</p>"
    if not sweep.trials:
        return
    yield from _winner(sweep)
    yield "<h2>History</h2>" + _history(sweep)
    yield "<h2>Fields of all trials</h2>" + _parallel(sweep)
    yield "<h2>What matters how much</h2>" + _importance(sweep)
    yield from _tradeoffs(sweep)
    yield from _curves(sweep)
    yield f"<h2>All {len(sweep.trials):,} trials, the best first</h2>" + _table(sweep)


def summary(sweep: Sweep) -> str:
    """How many trials there are, and of which statuses, in a sentence."""
    if not sweep.trials:
        return "No trial has started."
    counts = {status: sum(line["status"] == status for line in sweep.trials) for status in reading.STATUSES}
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    planned = sweep.recipe.search.trials
    started = f"{len(sweep.trials):,} of at most {planned:,} trials have started" if not sweep.complete else "Trials"
    return f"{started}: {told}." + (
        " The budget was spent before all had started." if sweep.metrics.get("out_of_budget") else ""
    )


def told(sweep: Sweep, line: Line) -> str:
    """A trial in a line: number, what it changes, what it reached."""
    names = [*sweep.recipe.search.objectives, *sweep.recipe.search.constraints]
    changed = ", ".join(f"{short} {format_figure(value)}" for short, value in _shortened(sweep, line).items())
    reached = ", ".join(f"{name} {format_figure(line['figures'][name])}" for name in names if name in line["figures"])
    at = f" at step {line['step']}" if line["step"] is not None else ""
    status = "" if line["status"] == "complete" else f" ({line['status']}{at})"
    return f"trial {line['trial']}{status}: {changed}" + (f": {reached}" if reached else "")


# --- parts -----------------------------------------------------------------------------------------------------------


def _winner(sweep: Sweep) -> Iterator[str]:
    best = choice.best(sweep.trials, sweep.recipe.search)
    if best is None:
        yield "<h2>The best</h2><p>No trial is complete and keeps the constraints yet.</p>"
        return
    yield f"<h2>The best{'' if sweep.complete else ' so far'}: trial {_text(best['trial'])}</h2>"
    rows = {**best["overrides"], **best["figures"]}
    shown = [*best["overrides"], *sweep.recipe.search.objectives, *sweep.recipe.search.constraints]
    cells = "".join(f"<tr><td>{_text(name)}<td>{_text(format_figure(rows[name]))}" for name in dict.fromkeys(shown))
    yield f"<table>{cells}</table>"
    yield f"<p>The recipe that makes it again: <code>manta tune --best-of {_text(sweep.folder.url)} --recipe-only</code></p>"


def _history(sweep: Sweep) -> str:
    search = sweep.recipe.search
    name, mode = next(iter(search.objectives.items()))
    best = choice.best(sweep.trials, search)
    allowed = {line["trial"] for line in choice.allowed(sweep.trials, search)}
    dots, steps = [], []
    least = math.inf
    for number, line in enumerate(sweep.trials):
        value = line["figures"].get(name)
        if line["status"] == "failed" or value is None:
            if line["status"] == "failed":
                dots.append(Dot(number, math.nan, "failed", _cut(f"{told(sweep, line)}: {line['reason']}")))
            continue
        kind = "best" if line is best else "done" if line["trial"] in allowed else "open"
        dots.append(Dot(number, value, kind, _cut(told(sweep, line))))
        signed = value if mode == "min" else -value
        if line["trial"] in allowed and signed < least:
            least = signed
            steps.append((float(number), float(value)))
    legend = "Filled: complete; open: given up, under way or beyond a constraint; crosses: failed. The line is the best so far."
    return pictures.history(dots, steps, f"{name} ({mode})") + f"<p class=soft>{legend}</p>"


def _parallel(sweep: Sweep) -> str:
    """Fields in the recipe's order, then the objectives."""
    search = sweep.recipe.search
    ranks = {line["trial"]: place for place, line in enumerate(choice.ranked(sweep.trials, search))}
    scales = {
        name: pictures.spread([line["figures"][name] for line in sweep.trials if name in line["figures"]])
        for name in search.objectives
    }
    short = short_names(list(search.space))
    fields = {path: draws.entry(raw) for path, raw in search.space.items()}
    axes = [Axis(short[path], _marks(entry)) for path, entry in fields.items()]
    axes += [
        Axis(name, [(0.0, format_figure(one.low)), (1.0, format_figure(one.high))]) for name, one in scales.items()
    ]
    strands = []
    for line in sweep.trials:
        shares: list[float | None] = [
            _share(fields[path], line["overrides"][path]) if path in line["overrides"] else None for path in fields
        ]
        shares += [
            scale.share(line["figures"][name]) if line["figures"].get(name) is not None else None
            for name, scale in scales.items()
        ]
        place = ranks.get(line["trial"])
        kind = "failed" if line["status"] == "failed" else "off" if place is None else "done" if place else "best"
        rank = 1.0 if place is None else place / max(1, len(ranks) - 1)
        strands.append(Strand(shares, rank, kind, _cut(told(sweep, line))))
    legend = (
        "A line is a trial: the stronger the better; grey: given up, under way or beyond a constraint; dotted: failed."
    )
    return pictures.parallel(axes, strands) + f"<p class=soft>{legend}</p>"


def _marks(entry: draws.Entry) -> list[tuple[float, str]]:
    if entry.name == "choice":
        return [(_share(entry, value), _value(value)) for value in entry.argument]
    low, high = entry.argument
    middle = math.sqrt(low * high) if entry.name == "loguniform" else (low + high) / 2
    middle = round(middle) if entry.name == "randint" else middle
    return [(_share(entry, value), format_figure(value)) for value in dict.fromkeys((low, middle, high))]


def _share(entry: draws.Entry, value: Any) -> float:
    """Where a value lies on its field's axis; values that drifted out of the space lie at its end."""
    if entry.name == "choice":
        values = list(entry.argument)
        return values.index(value) / (len(values) - 1) if len(values) > 1 and value in values else 0.5
    low, high = entry.argument
    return Scale(low, high, log=entry.name == "loguniform").share(value)


def _importance(sweep: Sweep) -> str:
    found = sweep.metrics.get("importance")
    if not found:
        why = (
            "too few trials are complete, or not all have the same fields"
            if sweep.complete
            else "known when it has ended"
        )
        return f"<p>Not known: {why}.</p>"
    rows = sorted(found.items(), key=lambda item: -item[1])
    name = next(iter(sweep.recipe.search.objectives))
    how = f"Share of each field in how the good trials differ from the rest by {name} (PED-ANOVA)."
    return pictures.bars(rows) + f"<p class=soft>{_text(how)}</p>"


def _tradeoffs(sweep: Sweep) -> Iterator[str]:
    """Each two of the objectives and constraints, the Pareto set marked where it is one of two objectives."""
    search = sweep.recipe.search
    names = list(dict.fromkeys([*search.objectives, *search.constraints]))
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]][:PAIRS]
    if not pairs:
        return
    several = len(search.objectives) > 1
    front = choice.pareto(sweep.trials, search) if several else []
    yield f"<h2>{'Pareto set' if several else 'Objective and constraints'}</h2>"
    if several:
        yield "<p>No other trial is better in one objective and as good in the others:</p><ul>"
        yield "".join(f"<li>{_text(told(sweep, line))}" for line in front) + "</ul>"
    yield from (_pair(sweep, pair, front) for pair in pairs)


def _pair(sweep: Sweep, pair: tuple[str, str], front: list[Line]) -> str:
    """The first of the two figures upwards, the second across."""
    search = sweep.recipe.search
    up, across = pair
    best, allowed = choice.best(sweep.trials, search), {one["trial"] for one in choice.allowed(sweep.trials, search)}
    marked = {line["trial"] for line in front}
    dots = []
    for line in sweep.trials:
        if line["figures"].get(up) is None or line["figures"].get(across) is None:
            continue
        kind = "front" if line["trial"] in marked else "best" if not front and line is best else "done"
        kind = kind if line["trial"] in allowed else "open"
        dots.append(Dot(line["figures"][across], line["figures"][up], kind, _cut(told(sweep, line))))
    joined = front if len(search.objectives) == 2 and set(pair) == set(search.objectives) else []
    places = [(line["figures"][across], line["figures"][up]) for line in joined]
    return pictures.scatter(dots, places, (across, up), (_limits(search, across), _limits(search, up)))


def _limits(search: Search, name: str) -> list[float]:
    limit = search.constraints.get(name)
    return [] if limit is None else [value for value in (limit.at_most, limit.at_least) if value is not None]


def _curves(sweep: Sweep) -> Iterator[str]:
    found = reading.curves(sweep)
    if not found:
        return
    best = choice.best(sweep.trials, sweep.recipe.search)
    lines = {line["trial"]: line for line in sweep.trials}
    most = max(2, POINTS // len(found))
    threads = []
    for curve in found:
        line = lines[curve.trial]
        kind = "best" if line is best else "done" if line["status"] == "complete" else "off"
        run = f", run {curve.run}" if curve.run != curve.trial else ""
        threads.append(
            Thread(reading.thinned(curve.points, most), kind, f"trial {curve.trial}{run} ({line['status']})")
        )
    name = reading.shown_figure(sweep)
    yield f"<h2>{_text(name.replace('_', ' '))} of all trials, by step</h2>" + pictures.curves(threads, name)


def _table(sweep: Sweep) -> str:
    search = sweep.recipe.search
    best = choice.best(sweep.trials, search)
    front = {line["trial"] for line in choice.pareto(sweep.trials, search)} if len(search.objectives) > 1 else set()
    names = list(dict.fromkeys([*search.objectives, *search.constraints]))
    head = ["trial", "status", "step", *short_names(list(search.space)).values(), *names, "reason"]
    rows = ["<tr><td>" + "<td>".join(_text(cell.replace("_", " ")) for cell in head)]
    for line in reading.order(sweep):
        status = line["status"] + (", Pareto" if line["trial"] in front else "") + (", best" if line is best else "")
        cells = [
            _link(sweep, line),
            _text(status),
            "" if line["step"] is None else _text(line["step"]),
            *(_text(_value(line["overrides"][path])) if path in line["overrides"] else "-" for path in search.space),
            *(_text(_figure(line, name)) for name in names),
            _text(_cut((line["reason"].splitlines() or [""])[0])),
        ]
        rows.append(f"<tr{' class=best' if line is best else ''}><td>" + "<td>".join(cells))
    return f"<div class=wide><table>{''.join(rows)}</table></div>"


def _link(sweep: Sweep, line: Line) -> str:
    """A complete trial's own page lies beside its results."""
    name = _text(line["trial"])
    if line["status"] != "complete":
        return name
    run = html.escape(sweep.runs(str(line.get("trained_as", line["trial"])))[0], quote=True)
    return f'<a href="{reading.TRIALS}/{run}/report.html">{name}</a>'


def _figure(line: Line, name: str) -> str:
    if line["figures"].get(name) is None:
        return "-"
    about = f" ± {format_figure(line['spread'][name])}" if name in line.get("spread", {}) else ""
    return f"{format_figure(line['figures'][name])}{about}"


def _shortened(sweep: Sweep, line: Line) -> dict[str, Any]:
    short = short_names(list(sweep.recipe.search.space))
    return {short.get(path, path): value for path, value in line["overrides"].items()}


def _value(value: Any) -> str:
    return format_figure(value) if isinstance(value, int | float | str) else json.dumps(value)


def _cut(text: str) -> str:
    return text if len(text) <= CHARS else f"{text[:CHARS]} ..."


def _text(value: Any) -> str:
    return html.escape(str(value))
