"""The part of an evaluation's page that colours each word by what it adds to its text's label."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from manta.evaluate.explanations import FIELDS, FILE
from manta.progress import format_figure
from manta.storage import Folder

NAMED = 6  # words whose shares are written out
# What speaks for the label, and what speaks against it; the share sets how strongly.
FOR, AGAINST = "20 120 220", "215 90 20"


def sections(folder: Folder) -> Iterator[str]:
    """Pieces of HTML for explanations.jsonl; none where there is none."""
    if not folder.exists(FILE):
        return
    found = [json.loads(line) for line in folder.read_text(FILE).splitlines() if line.strip()]
    yield (
        "<h2>Which words the labels come from</h2><p class=soft>Integrated gradients: "
        f'<span style="background: rgb({FOR} / 0.5)">for the label</span>, '
        f'<span style="background: rgb({AGAINST} / 0.5)">against it</span>; the stronger, the larger the word\'s share</p>'
    )
    yield "".join(map(explanation, found))


def explanation(found: Mapping[str, Any]) -> str:
    """One example: its label, its coloured text, the largest shares, how well they add up."""
    wanted = found["reference"] if isinstance(found["reference"], str) else ", ".join(found["reference"])
    lead = f"example {found['example']}: {found['prediction']} (wanted: {wanted or 'none'})"
    texts = "<br>".join(coloured(found[field], _of(found, field)) for field in FIELDS if field in found)
    ranked = sorted(found["words"], key=lambda word: -abs(word["share"]))[:NAMED]
    shares = ", ".join(f"{_text(word['text'])} {_percent(word['share'])}" for word in ranked)
    rises = f"logit {format_figure(found['value'])}, of the empty text {format_figure(found['baseline'])}"
    sure = f"gap {found['gap']:+.2g} after {found['steps']} points" + (
        "" if found["complete"] else ", which is too much"
    )
    return f"<p>{_text(lead)}</p><p>{texts}</p><p class=soft>{shares}<br>{rises}, {sure}</p>"


def coloured(text: str, words: list[dict[str, Any]]) -> str:
    """The text with each word on the colour of its share, which is its title as well."""
    pieces, done = [], 0
    for word in words:
        tone = FOR if word["share"] > 0 else AGAINST
        style = f"background: rgb({tone} / {0.85 * abs(word['share']):.2f})"
        pieces += [_text(text[done : word["start"]]), f'<span style="{style}" title="{_percent(word["share"])}">']
        pieces.append(f"{_text(text[word['start'] : word['end']])}</span>")
        done = word["end"]
    return "".join([*pieces, _text(text[done:])])


def _of(found: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    return [word for word in found["words"] if word["field"] == field]


def _percent(share: float) -> str:
    return f"{100 * share:+.1f}%"


def _text(value: Any) -> str:
    return html.escape(str(value))
