"""A teacher in real vLLM on Ray: the same text whatever the number of copies, also after kill -9, and answers that are right."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import artifact
from manta.data.shards import read_table
from manta.generate import writing
from manta.storage import Folder
from tests.generate.conftest import NAMES, Make

pytestmark = pytest.mark.integration

DRAWN: dict[str, Any] = {"engine": "vllm", "dtype": "bfloat16", "temperature": 1.0, "prompt_tokens": 8}


@pytest.mark.usefixtures("ray_session")
def test_any_number_of_copies_writes_the_same(make: Make, speaker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART", 24)
    given: dict[str, Any] = {"model": {"source": str(speaker)}, "generate": DRAWN}
    one = make("one", resources={"cpus": 1}, **given)
    two = make("two", resources={"cpus": 2, "workers": 2}, **given)
    assert artifact.content_hash(one.folder) == artifact.content_hash(two.folder)
    assert one.metrics["generated_tokens"] > 64 * 8


@pytest.mark.usefixtures("ray_session")
def test_questions_are_answered(make: Make, speaker: Path, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"input": f"{number}?"}) + "\n" for number in range(len(NAMES))))
    made = make(
        "answers",
        model={"source": str(speaker)},
        data={"examples": str(file), "validation_fraction": 0.2},
        task={"name": "chat", "max_tokens": 16},
        generate={"engine": "vllm", "dtype": "float32"},
        resources={"cpus": 1},
    )
    pairs = [
        row
        for split in ("train", "validation")
        for row in read_table(made.folder, f"examples/{split}.parquet").to_pylist()
    ]
    assert {row["input"]: row["target"] for row in pairs} == {f"{n}?": name for n, name in enumerate(NAMES)}
    assert made.metrics["left_out"] == {}


def test_what_was_written_before_kill_9_is_kept(
    place: Path, speaker: Path, output: str, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    raw = {
        "kind": "generate", "name": "whole", "output": output, "model": {"source": str(speaker)},
        "data": {"shards": str(place / "shards")}, "generate": DRAWN | {"samples": 24}, "resources": {"cpus": 1},
    }  # fmt: skip
    for name in ("whole", "killed"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(raw | {"name": name}))
    broken = Folder(f"{output}/killed")
    running = manta_cli.start("generate", tmp_path / "killed.yaml")
    wait_until(lambda: any(name.startswith(writing.FOLDER) for name in broken.files()), 120, "no part is written")
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    written = sum(name.startswith(writing.FOLDER) for name in broken.files())
    assert not broken.exists(artifact.COMPLETE) and 1 <= written < 24
    again, whole = (manta_cli("generate", tmp_path / f"{name}.yaml") for name in ("killed", "whole"))
    assert again.returncode == whole.returncode == 0, again.stderr + whole.stderr
    assert "of 24 parts were written before" in again.stderr
    assert artifact.content_hash(broken) == artifact.content_hash(Folder(f"{output}/whole"))
