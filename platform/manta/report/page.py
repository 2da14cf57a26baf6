"""The page a run leaves behind: one self-contained HTML file with its figures, curves, settings and origin."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import yaml

from manta import artifact as artifacts
from manta.errors import InputError
from manta.progress import format_figure
from manta.report import corpus, evaluation, lineage, status, sweep
from manta.storage import Folder

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c2733, #dbe4ee); --soft: light-dark(#66788a, #8fa3b8);
  --line: light-dark(#dbe2ea, #33414f); --mark: light-dark(#0b6bcb, #6db3f8); --ground: light-dark(#fff, #12181f) }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin-top: 2rem } .soft { color: var(--soft) }
table { border-collapse: collapse } td { border-bottom: 1px solid var(--line); padding: .2rem 1.2rem .2rem 0; font-variant-numeric: tabular-nums }
pre { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; overflow-x: auto; font-size: 13px }
svg { width: 100%; height: auto } polyline { fill: none; stroke: var(--mark); stroke-width: 1.5 } svg text { fill: var(--soft); font-size: 11px }
svg line { stroke: var(--line) } svg rect { fill: var(--mark) }
"""


# Lines of metrics.jsonl have a `kind`; these are the figures worth a chart, in the page's order.
CURVES = (
    ("train", "loss"),
    ("validation", "loss"),
    ("validation", "score"),
    ("train", "lr"),
    ("train", "grad_norm"),
    ("train", "tokens_per_s"),
    ("train", "mfu"),
)


def write(where: str) -> str:
    """Write `report.html` into the run's folder, finished or not, and return its path. Raises InputError if no run is there."""
    folder = Folder(where)
    manifest = artifacts.read_manifest(folder)
    if manifest is None:
        raise InputError(
            f"{folder.url} holds no run (no {artifacts.MANIFEST}): name the folder of a run, such as runs/NAME"
        )
    folder.write_text("report.html", render(folder, manifest))
    return f"{folder.url}/report.html"


def render(folder: Folder, manifest: dict[str, Any]) -> str:
    """The page as HTML text."""
    run = artifacts.Artifact(folder, manifest)
    state = f"finished {manifest['completed']}" if artifacts.is_complete(folder) else status.unfinished(folder)
    parts = [
        f"<h1>{_text(run.kind)} {_text(run.name)}</h1>",
        f"<p class=soft>{_text(run.fingerprint)}<br>{_text(state)}</p>",
        "<h2>Figures</h2>",
        _table({key: value for key, value in run.metrics.items() if not isinstance(value, (dict, list))}),
        *_curves(folder),
        *(corpus.sections(run) if run.kind == "prepare" else ()),
        *(evaluation.sections(run) if run.kind == "evaluate" else ()),
        *(sweep.sections(run) if run.kind == "tune" else ()),
        "<h2>Origin</h2>",
        f"<pre>{_text(lineage.text(artifacts.lineage(run)))}</pre>",
        "<h2>Recipe</h2>",
        f"<pre>{_text(yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True))}</pre>",
        "<h2>Made with</h2>",
        _table({**manifest["versions"], **{k: v for k, v in manifest["hardware"].items() if v}}),
    ]
    title = f"{_text(run.kind)} {_text(run.name)}"
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>\n" + "\n".join(parts) + "\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _table(figures: dict[str, Any]) -> str:
    cells = (
        f"<tr><td>{_text(key.replace('_', ' '))}<td>{_text(format_figure(value))}" for key, value in figures.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _curves(folder: Folder) -> list[str]:
    """One chart per curve of metrics.jsonl that has at least two points."""
    if not folder.exists("metrics.jsonl"):
        return []
    text = folder.read_text("metrics.jsonl")  # of a run that still trains, the last line may have no end yet
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip()]
    charts = []
    streams = dict.fromkeys(record["stream"] for record in records if "stream" in record)  # of a mix
    for kind, figure in [*CURVES, *((kind, f"loss_{name}") for name in streams for kind in ("train", "validation"))]:
        points = [
            (record["step"], record[figure])
            for record in records
            if record["kind"] == kind and record.get(figure) is not None
        ]
        if len(points) > 1:
            charts.append(f"<h2>{kind} {_text(figure.replace('_', ' '))}</h2>{_chart(points)}")
    return charts


def _chart(points: Sequence[tuple[float, float]], width: int = 900, height: int = 220) -> str:
    """A line chart as SVG, with the extremes written at its edges."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, bottom = 60, 24
    spread_x, spread_y = (max(xs) - min(xs)) or 1, (max(ys) - min(ys)) or 1

    def place(x: float, y: float) -> str:
        across = left + (x - min(xs)) / spread_x * (width - left - 10)
        down = 10 + (max(ys) - y) / spread_y * (height - bottom - 20)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(place(x, y) for x, y in points)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img"><line x1="{left}" y1="{height - bottom}" x2="{width}" y2="{height - bottom}"/>'
        f'<polyline points="{line}"/><text x="0" y="16">{format_figure(float(max(ys)))}</text>'
        f'<text x="0" y="{height - bottom - 4}">{format_figure(float(min(ys)))}</text>'
        f'<text x="{left}" y="{height - 6}">step {format_figure(min(xs))}</text>'
        f'<text x="{width - 10}" y="{height - 6}" text-anchor="end">{format_figure(max(xs))}</text></svg>'
    )
