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
    assert one.metrics["generated_tokens"] > 64


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
    place: Path,
    make: Make,
    parts: list[int],
    output: str,
    tmp_path: Path,
    manta_cli: Any,
    wait_until: Callable[..., None],
) -> None:
    """Parts that were written are not asked for again, and the whole is what an uninterrupted teacher writes."""
    given = {"engine": "transformers", "dtype": "float32", "temperature": 1.0, "prompt_tokens": 8, "samples": 4}
    raw = {
        "kind": "generate", "name": "killed", "output": output, "model": {"source": str(place / "teacher")},
        "data": {"shards": str(place / "shards")}, "generate": given, "resources": {"cpus": 1},
    }  # fmt: skip
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(raw))
    broken = Folder(f"{output}/killed")

    def written() -> list[str]:
        return [name for name in broken.files() if name.startswith(writing.FOLDER)]

    running = manta_cli.start("generate", tmp_path / "killed.yaml")
    wait_until(written, 120, "no part is written")
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not broken.exists(artifact.COMPLETE) and 1 <= len(written()) < 4
    again = manta_cli("generate", tmp_path / "killed.yaml")
    assert again.returncode == 0, again.stderr
    assert "of 4 parts were written before" in again.stderr
    assert artifact.content_hash(broken) == artifact.content_hash(make("whole", generate=given).folder)
