"""The card of a prepared corpus: where its documents went, where they came from, how long they are, what they look like."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manta.artifact import Artifact
from manta.progress import format_figure
from manta.storage import Folder

# Lengths, languages and samples are taken from this many documents, spread over the files.
READ = 20_000
SAMPLES, SHOWN = 6, 400  # documents, characters of each


def sections(made: Artifact) -> Iterator[str]:
    """Pieces of HTML for the page of a `prepare` artifact: funnel, sources, lengths, languages, tokenizer, samples."""
    figures = made.metrics
    if "documents_read" in figures:
        yield "<h2>Where the documents went</h2>" + _bars(_funnel(made.recipe, figures), figures["documents_read"])
    if sources := figures.get("sources"):
        yield "<h2>Sources</h2>" + _sources(sources)
    found = _rows(made.folder, "documents/*.parquet", ("text", "language", "augmented"), READ)
    variants = {row["augmented"]: row for row in reversed(found) if row.get("augmented")}
    documents = [row for row in found if not row.get("augmented")]
    if documents:
        where = f"of {len(documents):,} documents"
        yield f"<h2>Characters of a document, {where}</h2>" + _bars(_lengths(documents), len(documents))
        languages = Counter(row["language"] or "not told" for row in documents)
        if set(languages) != {"not told"}:
            yield f"<h2>Languages, {where}</h2>" + _bars(languages.most_common(), len(documents))
    if made.folder.exists("tokenizer/report.json"):
        yield "<h2>Tokenizer, on held-out documents</h2>" + _tokenizer(made.folder)
    if documents:
        chosen = documents[:: max(1, len(documents) // SAMPLES)][:SAMPLES]
        yield "<h2>Documents that stayed</h2>" + "".join(f"<pre>{_cut(row['text'])}</pre>" for row in chosen)
    if figures.get("augmented"):
        yield "<h2>Variants that were added</h2>" + _bars(list(figures["augmented"].items()), figures["documents_kept"])
        yield "".join(f"<p>{_text(kind)}</p><pre>{_cut(row['text'])}</pre>" for kind, row in sorted(variants.items()))
    dropped = _rows(made.folder, "dropped/*.parquet", ("id", "reason", "detail"), READ)
    if dropped:
        first = {row["reason"]: row for row in reversed(dropped)}
        shown = (f"<p>{_text(reason)}</p><pre>{_cut(row['detail'])}</pre>" for reason, row in sorted(first.items()))
        yield "<h2>One document of each reason that went</h2>" + "".join(shown)


def _funnel(recipe: Mapping[str, Any], figures: Mapping[str, Any]) -> list[tuple[str, int]]:
    """How many documents are left after each reason, in the order of the recipe's steps."""
    order = [step["step"] for step in recipe["data"]["steps"]]

    def place(reason: str) -> tuple[int, str]:
        step = reason.partition(".")[0]
        return (order.index(step) if step in order else len(order), reason)

    left = figures["documents_read"]
    stages = [("read", left)]
    for reason in sorted(figures.get("dropped", {}), key=place):
        left -= figures["dropped"][reason]
        stages.append((f"after {reason} ({figures['dropped'][reason]:,})", left))
    return stages


def _sources(sources: Mapping[str, Mapping[str, int]]) -> str:
    head = "<tr><td><td>read<td>stayed<td>characters<td>dropped most by"
    rows = []
    for source, counts in sources.items():
        drops = {key.removeprefix("dropped."): count for key, count in counts.items() if key.startswith("dropped.")}
        most = max(drops, key=lambda reason: drops[reason], default="")
        told = f"{most} ({drops[most]:,})" if most else ""
        numbers = (counts.get(key, 0) for key in ("read", "kept", "kept_chars"))
        cells = "".join(f"<td>{number:,}" for number in numbers)
        rows.append(f"<tr><td>{_text(source)}{cells}<td>{_text(told)}")
    return f"<table>{head}{''.join(rows)}</table>"


def _lengths(documents: Sequence[Mapping[str, str]]) -> list[tuple[str, int]]:
    """Documents by length, each class twice as wide as the one before."""
    classes = Counter(len(row["text"]).bit_length() for row in documents)
    return [
        (f"{1 << (bits - 1) if bits else 0:,} to {(1 << bits) - 1:,}", classes[bits])
        for bits in range(min(classes), max(classes) + 1)
    ]


def _tokenizer(folder: Folder) -> str:
    report = json.loads(folder.read_text("tokenizer/report.json"))
    keys = ("texts", "fertility", "chars_per_token", "coverage", "unknown_rate")
    rows = [("all", report["all"]), *report["languages"].items(), *report["sources"].items()]
    head = "".join(f"<td>{key.replace('_', ' ')}" for key in keys)
    body = "".join(
        f"<tr><td>{_text(name)}" + "".join(f"<td>{format_figure(found[key])}" for key in keys) for name, found in rows
    )
    return f"<table><tr><td>{head}{body}</table>"


def _bars(rows: Sequence[tuple[str, int]], whole: int) -> str:
    """A horizontal bar for each row, as long as its share of the whole."""
    height = 22
    lines = []
    for number, (name, count) in enumerate(rows):
        top, share = number * height, count / max(1, whole)
        lines.append(
            f'<text x="0" y="{top + 15}">{_text(name)}</text>'
            f'<rect x="330" y="{top + 4}" width="{max(0.5, 430 * share):.1f}" height="14"/>'
            f'<text x="{340 + 430 * share:.1f}" y="{top + 15}">{count:,} ({100 * share:.1f}%)</text>'
        )
    return f'<svg viewBox="0 0 900 {height * len(rows)}" role="img">{"".join(lines)}</svg>'


def _rows(folder: Folder, pattern: str, columns: Sequence[str], wanted: int) -> list[dict[str, Any]]:
    """Rows of the files that match, about as many of each file."""
    import pyarrow.parquet as pq
    from fsspec.core import open as open_url

    parent, _, ending = pattern.partition("/*")
    files = [name for name in folder.files() if name.startswith(f"{parent}/") and name.endswith(ending)]
    found: list[dict[str, Any]] = []
    for name in files:
        with open_url(f"{folder.url}/{name}", "rb") as handle, pq.ParquetFile(handle) as file:
            share = max(1, wanted // len(files))
            for batch in file.iter_batches(batch_size=min(share, 1024), columns=list(columns)):
                found.extend(batch.to_pylist()[:share])
                share -= len(batch)
                if share <= 0:
                    break
    return found[:wanted]


def _cut(text: str) -> str:
    return _text(text if len(text) <= SHOWN else text[:SHOWN] + " ...")


def _text(value: Any) -> str:
    return html.escape(str(value))
