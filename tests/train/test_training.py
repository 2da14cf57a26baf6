"""Real training under Ray Train and DeepSpeed: it learns, it survives kills and Ctrl-C, and the curve stays the same."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import artifact
from manta.errors import InputError
from manta.progress import Progress
from manta.storage import Folder
from manta.train import checkpoint, drill
from manta.train.metrics import read
from tests.train.counting import SEQ, STEPS, VOCAB, raw_recipe, run, write_shards

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An output folder that holds shards."""
    output = tmp_path_factory.mktemp("runs")
    write_shards(output)
    return str(output)


@pytest.fixture(scope="module")
def base(runs: str, ray_session: None) -> artifact.Artifact:
    """The undisturbed run, on two workers."""
    return run(raw_recipe(runs))


def test_it_learns_from_chance_to_the_pattern(base: artifact.Artifact) -> None:
    losses = [line["loss"] for line in read(base.folder) if line["kind"] == "train"]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(math.log(VOCAB), rel=0.02)
    assert losses[-1] < 1.5  # 16 tokens in random order would be ln 16 = 2.8
    assert losses[1] < losses[0]  # the first step moved the weights


def test_the_figures_are_true(base: artifact.Artifact) -> None:
    lines = read(base.folder)
    assert base.metrics["steps"] == STEPS
    assert base.metrics["tokens"] == STEPS * 8 * SEQ
    assert base.metrics["final_loss"] == [line for line in lines if line["kind"] == "train"][-1]["loss"]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [20, 40, 60]
    assert [line["tokens"] for line in lines if line["kind"] == "validation"] == [31 * (SEQ - 1)] * 3
    assert base.metrics["validation_perplexity"] == pytest.approx(math.exp(base.metrics["validation_loss"]))
    assert base.metrics["resumed_from_step"] == 0


def test_only_the_last_checkpoints_are_kept(base: artifact.Artifact) -> None:
    assert base.folder.local_path is not None
    kept = sorted(path.name for path in (base.folder.local_path / checkpoint.PARENT).glob("step-*"))
    assert kept == ["step-00000050", "step-00000060"]


def exported_loss(path: str, runs: str) -> float:
    """The mean loss over the first 31 validation rows of a model as Transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM

    from manta.data.shards import read_rows

    rows = torch.tensor(read_rows(Folder(f"{runs}/shards"), "validation/00000.parquet")[:31]).long()
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(path)(input_ids=rows).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), rows[:, 1:].reshape(-1)))


def test_the_exported_model_is_the_trained_one(base: artifact.Artifact, runs: str) -> None:
    """Transformers alone loads it and finds the validation loss that the workers measured."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = f"{base.folder.url}/model"
    assert exported_loss(path, runs) == pytest.approx(base.metrics["validation_loss"], rel=1e-3)
    model = AutoModelForCausalLM.from_pretrained(path)
    assert sum(p.numel() for p in model.parameters()) == base.metrics["parameters"]
    assert AutoTokenizer.from_pretrained(path).chat_template


def test_it_ends_early_and_exports_the_best_validation(base: artifact.Artifact, runs: str) -> None:
    raw = raw_recipe(runs, name="early", workers=1)
    raw["evaluate"]["every_steps"] = 2
    raw["early_stop"] = {"patience": 2, "min_delta": 100.0}  # nothing after the first validation is better by so much
    made = run(raw)
    lines = [line for line in read(made.folder) if line["kind"] == "validation"]
    assert [line["step"] for line in lines] == [2, 4, 6] and made.metrics["steps"] == 6
    assert made.metrics["best_step"] == 2 and made.metrics["best_loss"] == lines[0]["loss"] > lines[2]["loss"]
    loss = exported_loss(f"{made.folder.url}/model", runs)
    assert loss == pytest.approx(lines[0]["loss"], rel=1e-3)
    assert loss != pytest.approx(lines[2]["loss"], rel=1e-3)


def test_a_killed_worker_changes_nothing(base: artifact.Artifact) -> None:
    result = drill.drill(base.folder.url, kills=1, progress=Progress(quiet=True))
    assert result["identical"]
    assert result["compared"] == STEPS + 3
    assert len(result["kills"]) == 1
    assert not base.folder.exists("work/drill")


def start_cli(manta_cli: Any, raw: dict[str, Any], folder: Path) -> Any:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(raw))
    return manta_cli.start("pretrain", file)


def test_a_killed_driver_changes_nothing(
    base: artifact.Artifact, runs: str, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    """kill -9 of everything, then the same recipe again: the same curve and the same bytes of the model."""
    output = str(tmp_path)
    shutil.copytree(f"{runs}/shards", tmp_path / "shards")
    raw = raw_recipe(output)
    process = start_cli(manta_cli, raw, tmp_path)
    folder = Folder(tmp_path / "base")
    wait_until(lambda: process.poll() is not None or len(read(folder)) > 25, seconds=240, what="no steps are trained")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = run(raw)
    assert again.metrics["resumed_from_step"] >= 10
    assert drill.curve(again.folder) == drill.curve(base.folder)
    assert again.fingerprint == base.fingerprint
    assert (tmp_path / "base/model/model.safetensors").read_bytes() == Path(
        f"{base.folder.url}/model/model.safetensors"
    ).read_bytes()


def test_ctrl_c_saves_and_another_number_of_workers_carries_on(
    base: artifact.Artifact, runs: str, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    output = str(tmp_path)
    shutil.copytree(f"{runs}/shards", tmp_path / "shards")
    process = start_cli(manta_cli, raw_recipe(output), tmp_path)
    folder = Folder(tmp_path / "base")
    wait_until(lambda: process.poll() is not None or len(read(folder)) > 2, seconds=240, what="no steps are trained")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130, said
    stopped_at = checkpoint.newest_step(folder.url)
    assert 2 <= stopped_at < STEPS
    assert [line["step"] for line in read(folder) if line["kind"] == "train"][-1] == stopped_at

    again = run(raw_recipe(output, workers=1))
    assert again.metrics["resumed_from_step"] == stopped_at
    ours, theirs = drill.curve(again.folder), drill.curve(base.folder)
    assert ours.keys() == theirs.keys()
    exact = [key for key in ours if key[1] <= stopped_at]
    assert [ours[key] for key in exact] == [theirs[key] for key in exact]
    # Only the order of sums differs; without the optimizer's state the loss would jump.
    assert max(abs(ours[key] - theirs[key]) for key in ours) < 1e-3


def test_what_cannot_run_is_refused_before_anything_starts(base: artifact.Artifact, runs: str) -> None:
    with pytest.raises(InputError, match=r"set resources\.workers=2"):
        run(raw_recipe(runs, name="uneven", workers=3))
    with pytest.raises(InputError, match=r"set model\.max_position_embeddings=32"):
        run({**raw_recipe(runs, name="long"), "model": {"preset": "llama-tiny", "max_position_embeddings": 16}})
