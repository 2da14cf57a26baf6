"""Calibration rows by default: what a model was trained on, as its artifact's manifest tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta.artifact import Resolved
from manta.compress import lineage
from manta.errors import InputError
from manta.storage import Folder


def leave(folder: Path, kind: str, recipe: dict[str, Any], inputs: dict[str, Path], content: str = "c") -> Resolved:
    """A finished artifact whose inputs are other such folders, or files."""
    folder.mkdir()
    entries = {
        role: {"ref": path.name, "kind": "prepare", "path": str(path), "fingerprint": "f", "content": _content(path)}
        for role, path in inputs.items()
    }
    manifest = {"kind": kind, "name": folder.name, "content": content, "recipe": recipe, "inputs": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Resolved("model.source", folder.name, kind, str(folder), "f", content)


def _content(path: Path) -> str:
    return Folder(path).file_sha256() if path.is_file() else json.loads((path / "manifest.json").read_text())["content"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    leave(tmp_path / "shards", "prepare", {"kind": "prepare"}, {})
    return tmp_path / "shards"


def test_a_pretrained_model_is_calibrated_on_its_shards(tmp_path: Path, shards: Path) -> None:
    source = leave(tmp_path / "base", "pretrain", {"kind": "pretrain"}, {"data.shards": shards})
    assert lineage.find(source) == lineage.Origin(str(shards))


def test_the_chain_is_followed_through_compression_and_sweeps(tmp_path: Path, shards: Path) -> None:
    swept = {"kind": "tune", "trial": {"kind": "pretrain"}}
    leave(tmp_path / "best", "tune", swept, {"trial.data.shards": shards})
    pruned = leave(tmp_path / "pruned", "compress", {"kind": "compress"}, {"model.source": tmp_path / "best"})
    entry = json.loads((tmp_path / "pruned" / "manifest.json").read_text())
    entry["inputs"]["model.source"]["kind"] = "tune"
    (tmp_path / "pruned" / "manifest.json").write_text(json.dumps(entry))
    assert lineage.find(pruned) == lineage.Origin(str(shards))


def test_a_tuned_model_is_calibrated_on_the_rows_it_kept(tmp_path: Path, shards: Path) -> None:
    recipe = {"kind": "finetune", "task": {"name": "chat"}}
    source = leave(tmp_path / "tuned", "finetune", recipe, {"data.examples": shards})
    rows = tmp_path / "tuned" / "work" / "rows"
    rows.mkdir(parents=True)
    (rows / "shards.json").write_text("{}")
    assert lineage.find(source) == lineage.Origin(str(rows))


def test_rows_are_made_again_of_the_examples_through_the_chat_template(tmp_path: Path, trained: Any) -> None:
    """Of a tuning that kept no rows. Each conversation is a row of its own; what pads it is not read."""
    from manta.compress import calibration
    from manta.sections.compress import Calibration

    file = tmp_path / "pairs.jsonl"
    lines = [{"input": f"Return {number} times the value.", "target": "the value" * number} for number in range(1, 9)]
    file.write_text("\n".join(map(json.dumps, lines)))
    recipe = {
        "kind": "finetune",
        "name": "tuned",
        "data": {"examples": str(file), "validation_fraction": 0.25},
        "model": {"source": str(trained.model)},
        "task": {"name": "chat", "max_tokens": 64},
        "batch": {"samples": 2},
        "stop": {"steps": 1},
    }
    source = leave(tmp_path / "tuned", "finetune", recipe, {"data.examples": file})
    entry = json.loads((tmp_path / "tuned" / "manifest.json").read_text())
    entry["inputs"]["data.examples"]["kind"] = "file"
    (tmp_path / "tuned" / "manifest.json").write_text(json.dumps(entry))
    place = lineage.rows(lineage.find(source), trained.model, Folder(tmp_path / "run"))
    found = calibration.rows(Calibration(samples=6, seq_len=64), place, seed=0)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained.model)
    texts = [tokenizer.decode(row[row >= 0]) for row in found]
    assert len({len(row[row >= 0]) for row in found}) > 1
    messages = [
        [{"role": "user", "content": line["input"]}, {"role": "assistant", "content": line["target"]}] for line in lines
    ]
    known = [tokenizer.apply_chat_template(each, tokenize=False).strip() for each in messages]
    assert all(any(text.strip()[:40] == whole[:40] for whole in known) for text in texts)


@pytest.mark.parametrize("how", ["directory", "gone", "changed", "labelled"])
def test_what_no_lineage_tells_is_asked_for(tmp_path: Path, shards: Path, how: str) -> None:
    source = leave(tmp_path / "base", "pretrain", {"kind": "pretrain"}, {"data.shards": shards})
    if how == "directory":
        source = Resolved("model.source", "base", "directory", str(tmp_path), "f", "c")
    elif how == "gone":
        (shards / "manifest.json").unlink()
    elif how == "changed":
        (shards / "manifest.json").write_text(json.dumps({"content": "other"}))
    else:
        recipe = {"kind": "finetune", "task": {"name": "classification"}}
        source = leave(tmp_path / "labelled", "finetune", recipe, {"data.examples": shards})
    with pytest.raises(InputError, match=r"set compress\.calibration\.shards"):
        lineage.find(source)
