"""Stages as Ray jobs on a cluster with token authentication: the log is followed, the exit code is the stage's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from manta import artifact as artifacts

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def write_recipes(folder: Path, corpus: Path) -> None:
    prepare = {
        "kind": "prepare",
        "name": "shards",
        "output": str(folder / "runs"),
        "data": {
            "sources": [{"path": f"{corpus}/*.jsonl", "format": "jsonl"}],
            "seq_len": 64,
            "validation_fraction": 0.1,
            "shard_tokens": 32768,
        },
        "tokenizer": {"vocab_size": 512},
    }
    pretrain = {
        "kind": "pretrain",
        "name": "base",
        "output": str(folder / "runs"),
        "data": {"shards": "shards"},
        "model": {"preset": "llama-tiny"},
        "batch": {"samples": 8},
        "stop": {"steps": 4},
        "resources": {"workers": 2, "micro_batch": 2},
    }
    (folder / "prepare.yaml").write_text(yaml.safe_dump(prepare))
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(pretrain))


def ray_job(head, *entrypoint: str) -> subprocess.CompletedProcess:
    command = [
        str(Path(sys.executable).with_name("ray")),
        "job",
        "submit",
        "--address",
        head.dashboard,
        "--working-dir",
        ".",
    ]
    return subprocess.run(
        [*command, "--", *entrypoint],
        cwd=ROOT,
        env=os.environ | head.env,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )


def test_prepare_and_pretrain_run_as_jobs(ray_head, tmp_path, tiny_corpus, manta_cli) -> None:
    write_recipes(tmp_path, tiny_corpus)
    made = ray_job(ray_head, "python", "jobs/prepare.py", str(tmp_path / "prepare.yaml"))
    assert made.returncode == 0, made.stdout + made.stderr
    assert str(tmp_path / "runs" / "shards") in made.stdout, "the job's own summary is followed"

    trained = ray_job(ray_head, "python", "jobs/pretrain.py", str(tmp_path / "pretrain.yaml"))
    assert trained.returncode == 0, trained.stdout + trained.stderr
    base = artifacts.open_artifact(str(tmp_path / "runs" / "base"))
    assert base.metrics["steps"] == 4

    wrong = ray_job(ray_head, "python", "jobs/pretrain.py", str(tmp_path / "pretrain.yaml"), "optimizer.lrr=1")
    assert wrong.returncode != 0
    assert "did you mean 'lr'" in wrong.stdout + wrong.stderr

    # `manta submit` checks before it sends, packs what git tracks, and ends with the stage's own exit code.
    recipe = ROOT / "runs" / f"submit-{tmp_path.name}.yaml"
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text((tmp_path / "prepare.yaml").read_text())
    try:
        done = manta_cli(
            "submit", str(recipe), "--address", ray_head.dashboard, env=ray_head.env, cwd=ROOT, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "was complete" in done.stdout
        refused = manta_cli(
            "submit", str(recipe), "seed=9", "--address", ray_head.dashboard, env=ray_head.env, cwd=ROOT, timeout=300
        )
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "seed: 0 -> 9" in refused.stdout + refused.stderr
    finally:
        recipe.unlink()
