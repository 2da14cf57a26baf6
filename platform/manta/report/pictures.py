"""Pictures of scores as inline SVG: who was taken for whom, whether confidence and correctness agree, what changes cost."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from manta.evaluate.calibration import Bin

WIDTH = 900
CLASSES = 20  # shown apart; the rarer ones are put together
CELL = 44  # at most, in the picture's units
NAME = 22  # characters of a class


def confusion(names: Sequence[str], counts: np.ndarray) -> str:
    """A confusion matrix as SVG: row the true class, column the predicted one, shaded by the share of its row.

    `counts` is (classes, classes) of whole numbers. Of more than 20 classes the most frequent are shown, the others as one.
    """
    names, counts = _gathered(names, counts)
    left, top = 180, 130
    cell = min(CELL, (WIDTH - left - 10) / len(names))
    parts = []
    for row, (name, line) in enumerate(zip(names, counts.tolist(), strict=True)):
        down, whole = top + row * cell, sum(line)
        parts.append(_word(left - 8, down + cell / 2 + 4, _short(name), 'text-anchor="end"'))
        across = left + row * cell + cell / 2 + 4
        parts.append(_word(across, top - 8, _short(name), f'transform="rotate(-50 {across:.1f} {top - 8})"'))
        for column, count in enumerate(line):
            told = f"{name} taken for {names[column]}: {count:,} of {whole:,}"
            parts.append(_cell(left + column * cell, down, cell, count, whole, told))
    height = top + cell * len(names) + 28
    parts.append(_word(left, height - 8, "rows: true class; columns: predicted class"))
    return _svg(height, "confusion matrix", parts)


def reliability(bins: Sequence[Bin]) -> str:
    """A reliability diagram as SVG: the share that is right (bar) and the mean confidence (line) of each bin, above how many it holds.

    Where the bar ends below its line, the model is surer than it is right. The thin diagonal is where both are the same.
    """
    left, side, low = 60, 300, 90  # of the square, and the height of the histogram below it
    top, gap = 14, 16
    most = max(part.num for part in bins)
    parts = [_line(left, top + side, left + side, top), _line(left, top + side, left + side, top + side)]
    for part in bins:
        x, width = left + side * part.low, max(1.0, side * (part.high - part.low) - 1)
        if part.confidence is None or part.accuracy is None:
            continue
        told = (
            f"{part.low:.2f} to {part.high:.2f}: {part.num:,} answers, {100 * part.confidence:.1f}% sure, "
            f"{100 * part.accuracy:.1f}% right"
        )
        rise, fall = side * part.accuracy, low * part.num / most
        parts.append(_bar(x, top + side - rise, width, rise, told, 'class="right" style="fill-opacity: 0.6"'))
        sure = top + side - side * part.confidence
        parts.append(_line(x, sure, x + width, sure, 'style="stroke: var(--ink); stroke-width: 2"'))
        parts.append(_bar(x, top + side + gap, width, fall, told, 'class="held"'))
    height = top + side + gap + low + 24
    marks = [(0.0, "start"), (0.5, "middle"), (1.0, "end")]
    parts += [_word(left + side * at, height - 6, f"{at:g}", f'text-anchor="{where}"') for at, where in marks]
    parts += [_word(left - 8, top + side - side * at + 4, f"{at:g}", 'text-anchor="end"') for at, _ in marks]
    lines = ("bars: share that is right", "lines: mean confidence", f"below: answers, at most {most:,}")
    parts += [_word(left + side + 24, top + 20 + 18 * number, line) for number, line in enumerate(lines)]
    return _svg(height, "reliability diagram", parts)


class Drop(NamedTuple):
    """What something costs, in points, and the interval in which that lies."""

    name: str
    drop: float
    low: float
    high: float


def drops(found: Sequence[Drop]) -> str:
    """Horizontal bars as SVG, one a drop, each with its interval as a thin line; gains go to the left of zero."""
    left, right, row = 150, WIDTH - 160, 26
    least = min([0.0, *(min(each.drop, each.low) for each in found)])
    most = max([0.0, *(max(each.drop, each.high) for each in found)])
    scale = (right - left) / ((most - least) or 1.0)
    zero = left - least * scale
    parts = [_line(zero, 0, zero, row * len(found))]
    for number, each in enumerate(found):
        top, end = number * row, zero + each.drop * scale
        told = f"{each.name}: {each.drop:.2f} points, {each.low:.2f} to {each.high:.2f}"
        parts.append(_word(0, top + 17, _short(each.name)))
        parts.append(_bar(min(zero, end), top + 6, max(0.5, abs(end - zero)), 14, told, 'style="fill-opacity: 0.6"'))
        thin = 'style="stroke: var(--ink); stroke-width: 1.5"'
        parts.append(_line(zero + each.low * scale, top + 13, zero + each.high * scale, top + 13, thin))
        parts.append(_word(right + 12, top + 17, f"{each.drop:.1f} ({each.low:.1f} to {each.high:.1f})"))
    return _svg(row * len(found) + 4, "drops of the score", parts)


def _gathered(names: Sequence[str], counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The most frequent classes, and a last one for all others."""
    import numpy as np

    if len(names) <= CLASSES:
        return list(names), counts
    often = counts.sum(0) + counts.sum(1)
    kept = sorted(np.argsort(-often, kind="stable")[: CLASSES - 1].tolist())
    place = np.full(len(names), CLASSES - 1)
    place[kept] = np.arange(CLASSES - 1)
    found = np.zeros((CLASSES, CLASSES), dtype=counts.dtype)
    np.add.at(found, (place[:, None], place[None, :]), counts)
    return [*(names[number] for number in kept), f"({len(names) - len(kept)} others)"], found


def _cell(x: float, y: float, size: float, count: int, whole: int, told: str) -> str:
    share = count / whole if whole else 0.0
    box = _bar(x, y, size - 1, size - 1, told, f'style="fill-opacity: {0.06 + 0.64 * share:.2f}"')
    number = _word(x + size / 2, y + size / 2 + 4, f"{count:,}", 'text-anchor="middle" style="fill: var(--ink)"')
    return box + (number if count else "")


def _bar(x: float, y: float, width: float, height: float, told: str, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f"<rect {place} {more}><title>{html.escape(told)}</title></rect>"


def _line(x: float, y: float, to_x: float, to_y: float, more: str = "") -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {more}/>'


def _word(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img"><title>{title}</title>{"".join(parts)}</svg>'


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"
