"""Pictures of a sweep as inline SVG: its history, its fields side by side, two figures of each trial, curves of all of them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from manta.progress import format_figure

WIDTH = 900
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 24, 34  # between a picture's edges and its plot
APART = 3.0  # figures that lie this many times the middle half's spread beyond it are put at the edge
NAME = 26  # characters of a field
STYLE = """<style>
.sweep polyline { stroke-width: 1 } .sweep .best { stroke: var(--best); stroke-width: 2.5; stroke-opacity: 1; fill: none }
.sweep circle { fill: var(--mark) } .sweep circle.open { fill: var(--ground); stroke: var(--soft) }
.sweep circle.best, .sweep circle.front { fill: var(--best) } .sweep .off { stroke: var(--soft); stroke-opacity: .45 }
.sweep .failed { stroke: var(--fail); fill: none } .sweep .limit { stroke: var(--soft); stroke-dasharray: 6 4 }
.sweep polyline.failed { stroke-dasharray: 2 3 } .sweep text { paint-order: stroke; stroke: var(--ground); stroke-width: 3px }
:root { --best: light-dark(#c2410c, #fb923c); --fail: light-dark(#b91c1c, #f87171) }
.wide { overflow-x: auto } tr.best td { font-weight: 600 } .wide td { white-space: nowrap }
</style>"""


class Scale(NamedTuple):
    """Where values lie between a low and a high one; those beyond are put at the edge."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = (math.log(max(one, 1e-300)) for one in (low, high, at))
        return min(1.0, max(0.0, (at - low) / (high - low))) if high > low else 0.5


class Dot(NamedTuple):
    """A trial: its place, what it is ("done", "open", "failed", "best", "front"), and what is told of it."""

    x: float
    y: float
    kind: str
    told: str


class Axis(NamedTuple):
    """A field of the space: its name, and its marks as (share of the axis from below, text)."""

    name: str
    marks: list[tuple[float, str]]


class Strand(NamedTuple):
    """A trial across the axes: its share on each, None where it has no such field; how good it is, 0 the best, 1 the worst."""

    shares: list[float | None]
    rank: float
    kind: str  # "done", "off" (not chosen from), "failed" or "best"
    told: str


class Thread(NamedTuple):
    """A curve: its points, what it is ("done", "off" or "best"), and what is told of it."""

    points: list[tuple[float, float]]
    kind: str
    told: str


def spread(values: Sequence[float], keep: Sequence[float] = ()) -> Scale:
    """A scale of values that a few that are far off do not squeeze: those beyond three times the spread of the middle half
    lie at the edge (Tukey's far out values), `keep` aside."""
    known = sorted(value for value in values if math.isfinite(value))
    if not known:
        return Scale(0.0, 1.0)
    first, third = (known[round(share * (len(known) - 1))] for share in (0.25, 0.75))
    room = APART * (third - first)
    inside = [value for value in known if first - room <= value <= third + room] if room else known
    inside += [value for value in keep if math.isfinite(value)]
    return Scale(min(inside), max(inside))


def history(dots: Sequence[Dot], best: Sequence[tuple[float, float]], figure: str) -> str:
    """The figure of each trial in their order, and the best so far as a line of steps. A failed one, whose `y` is not a
    number, is a cross below."""
    height = 260
    last = max([1.0, *(dot.x for dot in dots)])
    up = spread([dot.y for dot in dots], [y for _, y in best])
    plot = _Plot(Scale(0.0, last), up, height)
    steps: list[tuple[float, float]] = []
    for x, y in best:
        steps += [(x, steps[-1][1])] if steps else []
        steps.append((x, y))
    if steps:
        steps.append((last, steps[-1][1]))
    parts = [*plot.frame("trial", figure)]
    if steps:
        parts.append(_polyline([plot.at(*point) for point in steps], 'class="best"', "the best so far"))
    parts += [_dot(plot, dot) for dot in dots]
    return _svg(height, "history", parts)


def scatter(dots: Sequence[Dot], front: Sequence[tuple[float, float]], names: tuple[str, str], limits: Limits) -> str:
    """Two figures of each trial, the Pareto set joined by a line; `limits` as dashed lines across."""
    height = 320
    shown = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    across = spread([dot.x for dot in shown], [*(x for x, _ in front), *limits[0]])
    up = spread([dot.y for dot in shown], [*(y for _, y in front), *limits[1]])
    plot = _Plot(across, up, height)
    parts = [*plot.frame(*names)]
    for x in limits[0]:
        parts.append(_line(plot.x(x), TOP, plot.x(x), height - BOTTOM, 'class="limit"'))
    for y in limits[1]:
        parts.append(_line(LEFT, plot.y(y), WIDTH - RIGHT, plot.y(y), 'class="limit"'))
    if len(front) > 1:
        parts.append(_polyline([plot.at(*point) for point in sorted(front)], 'class="best"', "the Pareto set"))
    parts += [_dot(plot, dot) for dot in shown]
    return _svg(height, f"{names[1]} by {names[0]}", parts)


Limits = tuple[Sequence[float], Sequence[float]]  # across, up


def curves(threads: Sequence[Thread], figure: str) -> str:
    """All trials' curves by step; later ones, and the best, are drawn above the others."""
    height = 320
    points = [point for thread in threads for point in thread.points]
    keep = [y for thread in threads if thread.kind == "best" for _, y in thread.points]
    steps = [x for x, _ in points]
    plot = _Plot(Scale(min(steps), max(steps)), spread([y for _, y in points], keep), height)
    parts = [*plot.frame("step", figure)]
    for thread in sorted(threads, key=lambda one: ("off", "done", "best").index(one.kind)):
        places = [plot.at(*point) for point in thread.points]
        if len(places) == 1:
            kind = {"off": "open", "done": "done", "best": "best"}[thread.kind]
            parts.append(_circle(*places[0], kind, thread.told))
        else:
            opacity = ' stroke-opacity="0.6"' if thread.kind == "done" else ""
            parts.append(_polyline(places, f'class="{thread.kind}"{opacity}', thread.told))
    return _svg(height, f"{figure} of all trials by step", parts)


def parallel(axes: Sequence[Axis], strands: Sequence[Strand]) -> str:
    """Parallel coordinates (Inselberg 1985): an axis for each field, a line for each trial, the better the stronger.

    A field that a trial does not have is at the foot of its axis, below all values.
    """
    top, tall = 40, 230
    width = max(WIDTH, 105 * len(axes))
    gap = (width - 150) / max(1, len(axes) - 1)
    lacking = [any(strand.shares[place] is None for strand in strands) for place in range(len(axes))]
    parts = []

    def at(place: int, share: float | None) -> tuple[float, float]:
        return 75 + place * gap, top + tall + 26 if share is None else top + tall * (1 - share)

    weight = {"failed": 0, "off": 1, "done": 2, "best": 3}
    for strand in sorted(strands, key=lambda one: (weight[one.kind], -one.rank)):
        places = [at(place, share) for place, share in enumerate(strand.shares)]
        opacity = f' stroke-opacity="{0.85 - 0.7 * strand.rank:.2f}"' if strand.kind == "done" else ""
        parts.append(_polyline(places, f'class="{strand.kind}"{opacity}', strand.told))
    for place, axis in enumerate(axes):
        x, _ = at(place, 0.0)
        parts.append(_line(x, top, x, top + tall, 'style="stroke: var(--ink)"'))
        parts.append(_word(x, top - 18, _short(axis.name), 'text-anchor="middle" style="fill: var(--ink)"'))
        marks = [*axis.marks, (None, "not there")] if lacking[place] else axis.marks
        parts += [_word(x + 5, at(place, share)[1] + 4, _short(text)) for share, text in marks]
    return _svg(top + tall + 44, "fields of all trials", parts, width)


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """A horizontal bar for each share, written in per cent."""
    parts = []
    for number, (name, share) in enumerate(rows):
        top = 24 * number
        parts.append(_word(0, top + 16, name))
        told = html.escape(f"{name}: {100 * share:.1f}%")
        long = max(0.5, 430 * share)
        parts.append(
            f'<rect x="330" y="{top + 4}" width="{long:.1f}" height="15"><title>{told}</title></rect>'
            f'<text x="{338 + long:.1f}" y="{top + 16}">{100 * share:.1f}%</text>'
        )
    return _svg(24 * len(rows) + 4, "importance", parts)


# --- pieces ----------------------------------------------------------------------------------------------------------


class _Plot(NamedTuple):
    across: Scale
    up: Scale
    height: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * self.across.share(value)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (self.height - BOTTOM - TOP) * self.up.share(value)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x(x), self.y(y)

    def frame(self, across: str, up: str) -> list[str]:
        """The two axes with their ends, and what they are."""
        foot, end = self.height - BOTTOM, WIDTH - RIGHT
        low, high = (format_figure(value) for value in (self.across.low, self.across.high))
        return [
            _line(LEFT, foot, end, foot),
            _line(LEFT, TOP, LEFT, foot),
            _word(LEFT - 6, TOP + 8, format_figure(float(self.up.high)), 'text-anchor="end"'),
            _word(LEFT - 6, foot, format_figure(float(self.up.low)), 'text-anchor="end"'),
            _word(LEFT, TOP - 10, up),
            _word(LEFT, foot + 26, low),
            _word(end, foot + 26, high, 'text-anchor="end"'),
            _word((LEFT + end) / 2, foot + 26, across, 'text-anchor="middle"'),
        ]


def _dot(plot: _Plot, dot: Dot) -> str:
    if dot.kind != "failed":
        return _circle(*plot.at(dot.x, dot.y), dot.kind, dot.told)
    x, y = plot.x(dot.x), plot.height - BOTTOM + 8
    cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
    return f'<path d="{cross}" class="failed"><title>{html.escape(dot.told)}</title></path>'


def _circle(x: float, y: float, kind: str, told: str) -> str:
    radius = 5 if kind in ("best", "front") else 3.5
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{kind}"'
    return f"<circle {place}><title>{html.escape(told)}</title></circle>"


def _polyline(points: Sequence[tuple[float, float]], more: str, told: str) -> str:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{line}" {more}><title>{html.escape(told)}</title></polyline>'


def _line(x: float, y: float, to_x: float, to_y: float, more: str = "") -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {more}/>'


def _word(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str], width: float = WIDTH) -> str:
    inside = "".join(parts)
    name = html.escape(title)
    return f'<svg class="sweep" viewBox="0 0 {width:.0f} {height:.0f}" role="img"><title>{name}</title>{inside}</svg>'


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"
