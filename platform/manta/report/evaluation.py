"""The page of an evaluation: figures with their intervals, the table of classes, who was taken for whom, changed texts, the worst answers."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manta.artifact import Artifact
from manta.evaluate import calibration, classification
from manta.progress import format_figure
from manta.report import explanations, pictures, robustness
from manta.report.difference import SCORES
from manta.tasks.scoring import spans

SPEED = ("first_token_ms", "peak_memory_bytes")  # figures of evaluate.speed that are no rates
WORST, SHOWN = 5, 600  # answers, characters of each text


def sections(made: Artifact) -> Iterator[str]:
    """Pieces of HTML for the page of an `evaluate` artifact; none while it has no scores."""
    if not made.folder.exists(SCORES):
        return
    report = json.loads(made.folder.read_text(SCORES))
    yield "<h2>Figures and where they lie with 95% confidence</h2>" + _intervals(report["figures"], report["intervals"])
    if "speed" in report:
        yield "<h2>Speed and memory</h2>" + _speed(report["figures"], report["speed"]["settings"])
    rows = report.get("examples", [])
    if not rows:
        return
    guesses, truths = [row["prediction"] for row in rows], [row["reference"] for row in rows]
    yield from _labels(report["task"]["name"], guesses, truths)
    if "labels" in report["task"]:
        yield from _calibration(report["task"], rows)
    yield from robustness.sections(report.get("robustness", {}))
    yield from explanations.sections(made.folder)
    yield f"<h2>Worst answers, of {len(rows):,}</h2>" + _worst(rows)


def _intervals(figures: Mapping[str, Any], intervals: Mapping[str, Any]) -> str:
    rows = []
    for name, found in intervals.items():
        where = f"{format_figure(found[0])} to {format_figure(found[1])}" if found else "not known"
        value = format_figure(figures[name]) if figures[name] is not None else "not a number"
        shown = name if "/" in name else name.replace("_", " ")  # a task of lm_eval is called what its file says
        rows.append(f"<tr><td>{_text(shown)}<td>{_text(value)}<td>{_text(where)}")
    return f"<table>{''.join(rows)}</table>"


def _speed(figures: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The model's rates beside its base's, where there is one."""
    shown = [name for name in figures if not name.startswith("base_") and ("_per_" in name or name in SPEED)]
    rows = ["<tr><th><th>model<th>base<th>model / base"]
    for name in shown:
        mine, theirs = figures[name], figures.get(f"base_{name}")
        base = "<td><td>" if theirs is None else f"<td>{format_figure(theirs)}<td>{mine / theirs:.2f}"
        rows.append(f"<tr><td>{_text(name.replace('_', ' '))}<td>{format_figure(mine)}{base}")
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    return f"<p>In turns; {_text(told)}. Medians over the rounds.</p><table>{''.join(rows)}</table>"


def _labels(task: str, guesses: Sequence[Any], truths: Sequence[Any]) -> Iterator[str]:
    """The table of classes, and for one label an example the confusion matrix."""
    if task in ("classification", "relations") and all(isinstance(truth, str) for truth in truths):
        yield _classes(classification.report(guesses, truths))
        yield "<h2>Who was taken for whom</h2>" + pictures.confusion(*classification.confusion(guesses, truths))
    elif task == "classification":
        yield _classes(classification.report_sets(guesses, truths))
    elif task == "tagging":
        if spans.scheme_of(tag for side in (guesses, truths) for tags in side for tag in tags) == "none":
            words = [[word for tags in side for word in tags] for side in (guesses, truths)]
            yield _classes(classification.report(*words))
        else:
            yield _classes(classification.report_entities(guesses, truths))


def _classes(found: classification.Report) -> str:
    return f"<h2>Classes, per cent</h2><pre>{_text(classification.table(found))}</pre>"


def _calibration(task: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    sure, right = calibration.decisions(task["name"], rows, task["labels"])
    if not sure:
        return
    bins = calibration.reliability(sure, right)
    found = {name.replace("_", " "): f"{value:.1f}%" for name, value in calibration.figures(sure, right).items()}
    if task["name"] == "classification" and isinstance(rows[0]["reference"], str):
        places = [task["labels"].index(row["reference"]) for row in rows]
        found["Brier score"] = f"{calibration.brier([row['confidence'] for row in rows], places):.3f}"
    told = ", ".join(f"{name} {value}" for name, value in found.items())
    yield f"<h2>Is it as sure as it is right?</h2><p>Of {len(sure):,} decisions: {told}</p>" + pictures.reliability(
        bins
    )
    yield f"<pre>{_text(calibration.table(bins))}</pre>"


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    ranked = sorted(range(len(rows)), key=lambda number: rows[number]["score"])[:WORST]
    parts = []
    for number in ranked:
        row = rows[number]
        parts.append(f"<p>example {number}, score {format_figure(row['score'])}</p>")
        parts.append(f"<pre>wanted: {_cut(row['reference'])}\nanswer: {_cut(row['prediction'])}</pre>")
    return "".join(parts)


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _text(text if len(text) <= SHOWN else f"{text[:SHOWN]} ...")


def _text(value: Any) -> str:
    return html.escape(str(value))
