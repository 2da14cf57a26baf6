"""The part of an evaluation's page about changed texts: what each perturbation costs, and what an attack does."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from manta.progress import format_figure
from manta.report import pictures

SHOWN, CHARS = 5, 300  # attacked examples, characters of a text


def sections(found: Mapping[str, Any]) -> Iterator[str]:
    """Pieces of HTML for the "robustness" of scores.json."""
    if tried := found.get("perturbations"):
        yield "<h2>What changed texts cost, in points of the score</h2>" + pictures.drops(_bars(tried))
        yield _table(tried)
        yield "".join(_examples(name, each["shown"]) for name, each in tried.items())
    if attack := found.get("attack"):
        yield "<h2>Words replaced until the label changes</h2>" + _attack(attack)


def _bars(tried: Mapping[str, Any]) -> list[pictures.Drop]:
    return [
        pictures.Drop(name, each["drop"], *(each["interval"] or (each["drop"],) * 2))
        for name, each in tried.items()
        if each["drop"] is not None
    ]


def _table(tried: Mapping[str, Any]) -> str:
    head = "<tr><td>perturbation<td>score<td>drop<td>95% interval<td>p swap<td>answers changed"
    rows = []
    for name, each in tried.items():
        where = " to ".join(map(format_figure, each["interval"])) if each["interval"] else "not known"
        cells = [format_figure(each[key]) if each[key] is not None else "not a number" for key in ("score", "drop")]
        p_swap = "not known" if each["p_swap"] is None else f"{each['p_swap']:.4f}"
        rows.append("<tr><td>" + "<td>".join(map(_text, [name, *cells, where, p_swap, f"{each['changed']:,}"])))
    return f"<table>{head}{''.join(rows)}</table>"


def _examples(name: str, shown: list[dict[str, Any]]) -> str:
    return "".join(
        f"<p>{_text(name)}, example {each['example']}: {_cut(each['answer'])} became {_cut(each['answer_after'])}</p>"
        f"<pre>{_cut(each['before'])}\n{_cut(each['after'])}</pre>"
        for each in shown
    )


def _attack(found: Mapping[str, Any]) -> str:
    told = (
        f"Of {found['examples']:,} examples {format_figure(found['accuracy'])}% are labelled rightly, and "
        f"{format_figure(found['attacked_accuracy'])}% still when up to {format_figure(found['budget'])}% of a text's words may be "
        f"replaced. Where the label changed, {format_figure(found['words_changed'])}% of the words were replaced; the model was asked "
        f"{format_figure(found['asked'])} times a text."
    )
    flipped = [row for row in found["rows"] if row.get("flipped")]
    parts = []
    for row in flipped[:SHOWN]:
        swaps = ", ".join(f"{word} -> {by}" for _, word, by in row["changes"])
        parts.append(
            f"<p>example {row['example']}: {_cut(row['label'])} became {_cut(row['answer_after'])} ({_text(swaps)})</p>"
        )
        parts.append(f"<pre>{_cut(row['text'])}</pre>")
    return f"<p>{_text(told)}</p>{''.join(parts)}"


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _text(text if len(text) <= CHARS else f"{text[:CHARS]} ...")


def _text(value: Any) -> str:
    return html.escape(str(value))
