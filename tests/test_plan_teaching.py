"""The plan of a distillation: bytes and hours of a stored teacher, memory and operations of one at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import plan
from manta import recipe as recipes
from manta.models import formulas, presets
from manta.sections.model import NewModel

SEQ, ROWS, VOCAB = 256, 1000, 8192


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with shards of 1,000 rows, a student and a teacher of twice its depth, as far as a plan reads them."""
    (tmp_path / "shards").mkdir()
    file = {"path": "train/0.parquet", "rows": ROWS, "tokens": ROWS * SEQ, "bytes": 1, "sha256": "0"}
    ids = {"seq_len": SEQ, "vocab_size": VOCAB, "eos_id": 0, "bos_id": 0, "pad_id": 2}
    (tmp_path / "shards/shards.json").write_text(json.dumps({**ids, "splits": {"train": [file], "validation": []}}))
    for name, layers in (("student", 4), ("teacher", 8)):
        (tmp_path / name).mkdir()
        config = presets.config(NewModel(preset="llama-7m", num_layers=layers), VOCAB, {})
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return tmp_path


def planned(output: Path, objective: dict[str, Any], **given: Any) -> dict[str, Any]:
    raw = {
        "kind": "pretrain", "name": "healed", "output": str(output), "data": {"shards": "shards"},
        "model": {"source": f"{output}/student"}, "objective": objective, "optimizer": {"precision": "fp32"},
        "batch": {"samples": 16}, "stop": {"steps": 50}, "resources": {"micro_batch": 8}, **given,
    }  # fmt: skip
    return plan.plan(recipes.validate(raw))


def taught(output: Path, **given: Any) -> dict[str, Any]:
    return {"name": "distillation", "teacher": f"{output}/teacher", **given}


def config(output: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((output / name / "config.json").read_text()))


def test_a_stored_teacher_takes_disk_and_a_pass_of_its_own(output: Path) -> None:
    found, plain = planned(output, taught(output)), planned(output, {"name": "clm"})
    assert found["teacher_parameters"] == formulas.num_parameters(config(output, "teacher"))
    assert found["teacher_bytes"] == 50 * 16 * SEQ * 65 * 4 == found["disk_bytes"] - plain["disk_bytes"]
    assert found["flops"] == plain["flops"] and found["memory_per_worker"] == plain["memory_per_worker"]
    forward = formulas.flops_per_token(config(output, "teacher"), SEQ) / 3
    assert found["teacher_flops"] == pytest.approx(50 * 16 * SEQ * forward, rel=1e-6)
    assert found["teacher_hours"] / found["hours"] == pytest.approx(found["teacher_flops"] / found["flops"])


def test_rows_of_a_second_epoch_are_not_asked_again(output: Path) -> None:
    found = planned(output, taught(output, top_k=16), stop={"epochs": 3.0})
    assert found["teacher_bytes"] == ROWS * SEQ * 17 * 4


def test_a_teacher_at_hand_takes_memory_and_operations(output: Path) -> None:
    found, plain = planned(output, taught(output, teacher_mode="live")), planned(output, {"name": "clm"})
    assert "teacher_bytes" not in found and found["disk_bytes"] == plain["disk_bytes"]
    extra = found["memory_per_worker"]["teacher_bytes"]
    assert extra == 4 * (found["teacher_parameters"] + 8 * SEQ * VOCAB)
    assert found["memory_per_worker"]["total_bytes"] == plain["memory_per_worker"]["total_bytes"] + extra
    assert found["flops"] == plain["flops"] + found["teacher_flops"]


def test_a_teacher_that_is_not_there_yet_is_told_of(output: Path) -> None:
    found = planned(output, {"name": "distillation", "teacher": "later"})
    assert "teacher_flops" not in found and any("objective.teacher = 'later'" in note for note in found["notes"])
