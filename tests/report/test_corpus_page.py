"""The card of a prepared corpus, over files written by hand: every number on it can be counted in them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.report import corpus, page

SOURCE = "web/*.jsonl"


@pytest.fixture
def card(tmp_path: Path) -> str:
    """The page of a corpus of ten documents, of which six stayed."""
    raw = {"kind": "prepare", "name": "shards", "output": str(tmp_path)}
    steps = [{"step": "length"}, {"step": "exact_dedup"}, {"step": "letters"}]
    raw["data"] = {"sources": [{"path": SOURCE, "format": "jsonl"}], "steps": steps}
    with artifacts.draft(recipes.validate(raw), {}, None, replace=False) as draft:
        folder = tmp_path / "shards"
        texts = ["a" * 3, "<b>bold</b>" + "b" * 90, *("c" * 200 for _ in range(4))]
        for number, part in enumerate((texts[:2], texts[2:])):
            table = {"id": [str(i) for i in range(len(part))], "text": part, "language": ["en"] * len(part)}
            (folder / "documents").mkdir(exist_ok=True)
            pq.write_table(pa.table(table), folder / f"documents/train-{number}.parquet")
        (folder / "dropped").mkdir()
        gone = {"id": ["x", "y"], "reason": ["length.min_chars", "letters.min_fraction"], "detail": ["tiny", "1 & 2"]}
        pq.write_table(pa.table(gone), folder / "dropped/0-00000.parquet")
        figures = {"texts": 2, "fertility": 1.5, "chars_per_token": 4.25, "coverage": 0.75, "unknown_rate": 0.0}
        report = {"all": figures, "languages": {"en": figures}, "sources": {SOURCE: figures}}
        draft.folder.write_text("tokenizer/report.json", json.dumps(report))
        counts = {"read": 10, "chars": 5000, "kept": 6, "kept_chars": 904, "dropped.length.min_chars": 2}
        dropped = {"letters.min_fraction": 1, "exact_dedup": 1, "length.min_chars": 2}
        draft.finish({"documents_read": 10, "dropped": dropped, "sources": {SOURCE: counts}})
    return Path(page.write(str(tmp_path / "shards"))).read_text()


def test_the_funnel_follows_the_recipes_order(card: str) -> None:
    stages = ["read", "after length.min_chars (2)", "after exact_dedup (1)", "after letters.min_fraction (1)"]
    places = [card.index(f">{stage}</text>") for stage in stages]
    assert places == sorted(places)
    for left in ("10 (100.0%)", "8 (80.0%)", "7 (70.0%)", "6 (60.0%)"):
        assert left in card


def test_sources_lengths_languages_and_the_tokenizer_are_counted(card: str) -> None:
    assert f"<td>{SOURCE}<td>10<td>6<td>904<td>length.min_chars (2)" in card
    assert ">2 to 3</text>" in card
    assert ">64 to 127</text>" in card
    assert "4 (66.7%)" in card, "documents of 128 to 255 characters"
    assert ">en</text>" in card
    assert "<td>4.25" in card


def test_samples_are_shown_escaped(card: str) -> None:
    assert "&lt;b&gt;bold" in card
    assert "<b>" not in card
    assert "<p>letters.min_fraction</p><pre>1 &amp; 2</pre>" in card


def test_a_large_corpus_is_read_in_part(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    for number in range(3):
        table = pa.table({"text": [f"{number}"] * 5000})
        pq.write_table(table, tmp_path / f"documents/{number}.parquet")
    rows = corpus._rows(artifacts.Folder(tmp_path), "documents/*.parquet", ("text",), 30)
    assert [row["text"] for row in rows] == ["0"] * 10 + ["1"] * 10 + ["2"] * 10
