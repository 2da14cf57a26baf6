"""Status, lineage, comparison and page over artifacts written by hand."""

import json

import pytest

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.errors import InputError
from manta.report import compare, lineage, page, status


@pytest.fixture
def runs(tmp_path):
    """Two finished prepare runs (seed 0, seed 1) and an unfinished one."""
    for name, seed, finish in (("a", 0, True), ("b", 1, True), ("c", 2, False)):
        raw = {"kind": "prepare", "name": name, "seed": seed, "output": str(tmp_path)}
        raw["data"] = {"sources": [{"path": "x", "format": "text"}]}
        with artifacts.draft(recipes.validate(raw), {}, None, replace=False) as draft:
            draft.add_input("documents", kind="documents", fingerprint="f" * 64, content="c" * 64)
            lines = [{"step": step, "kind": "train", "loss": 9.0 - step, "lr": 0.1} for step in range(5)]
            draft.folder.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
            if finish:
                draft.finish({"documents_kept": 100 + seed, "tokens": 1000, "note": "<b>text</b>"})
    return tmp_path


def test_status_tells_states_apart(runs) -> None:
    rows = {row["name"]: row for row in status.rows([str(runs)])}
    assert {name: row["state"] for name, row in rows.items()} == {"a": "complete", "b": "complete", "c": "unfinished"}
    assert "documents kept 100" in rows["a"]["figures"]
    with artifacts._lock(artifacts.Folder(runs / "c")):
        assert {row["name"]: row["state"] for row in status.rows([str(runs)])}["c"] == "running"
    assert "complete" in status.table(list(rows.values()))


def test_lineage_ends_at_the_documents_hash(runs) -> None:
    text = lineage.text(artifacts.lineage(artifacts.open_artifact(str(runs / "a"))))
    assert text.splitlines()[0].startswith("prepare")
    assert "documents  sha256 " + "c" * 64 in text


def test_compare_shows_settings_and_figures(runs) -> None:
    text = compare.text(str(runs / "a"), str(runs / "b"))
    assert "seed: 0 -> 1" in text
    line = next(line for line in text.splitlines() if line.startswith("documents_kept"))
    assert line.split() == ["documents_kept", "100", "101", "1", "1.010"]
    with pytest.raises(InputError, match="not finished"):
        compare.text(str(runs / "a"), str(runs / "c"))


def test_page_is_self_contained_and_escaped(runs) -> None:
    place = page.write(str(runs / "a"))
    html = (runs / "a" / "report.html").read_text()
    assert place == str(runs / "a" / "report.html")
    assert "<svg" in html
    assert "train loss" in html
    assert "&lt;b&gt;text" in html
    assert "http" not in html.replace("http-equiv", "")
    made = artifacts.open_artifact(str(runs / "a"))
    assert artifacts.content_hash(made.folder) == made.manifest["content"], "the page is not part of the result"
