"""Real sweeps and fine-tuning runs: Ray Tune, Ray Train and DeepSpeed on a tiny model."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.progress import Progress
from manta.schema import FinetuneRecipe, TuneRecipe
from manta.storage import Folder
from manta.tune import space

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def raw(kind: str, model: Path, pairs: Path, output: str, **changes: Any) -> dict[str, Any]:
    made = {
        "kind": kind,
        "name": "run",
        "output": output,
        "data": {"examples": str(pairs), "validation_fraction": 0.3},
        "model": {"source": str(model)},
        "task": {"name": "chat", "max_tokens": 64},
        "optimizer": {"lr": 1.0e-3, "precision": "fp32"},
        "batch": {"samples": 4},
        "stop": {"steps": 3},
        "resources": {"micro_batch": 2},
    }
    return made | changes


@pytest.fixture(scope="module")
def swept(
    tiny_model: Path,
    pairs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    manta_cli: Any,
    wait_until: Callable[..., None],
) -> dict[str, Any]:
    """A sweep of three trials, one of which must fail, killed -9 after its first trial and run again."""
    folder = tmp_path_factory.mktemp("sweep")
    entries = {"adapt.freeze_layers": {"choice": [0, 1, 99]}}  # the model has two layers
    recipe = raw(
        "tune", tiny_model, pairs, str(folder), adapt={"method": "freeze"}, search={"trials": 3, "space": entries}
    )
    # A seed whose last trial is the one to fail, so that the first is there when the sweep is killed.
    recipe["seed"] = next(
        seed for seed in range(99)
        if space.sample(recipes.validate(recipe).search, seed)[2] == {"adapt.freeze_layers": 99}
    )  # fmt: skip
    file = folder / "tune.yaml"
    file.write_text(yaml.safe_dump(recipe))
    first = folder / "run/trials/000"
    killed = manta_cli.start("tune", str(file))
    wait_until(lambda: (first / "COMPLETE").exists() or killed.poll() is not None, seconds=300, what="the first trial")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (folder / "run/COMPLETE").exists()
    before = json.loads((folder / "run/manifest.json").read_text())["fingerprint"]
    made_at = (first / "COMPLETE").stat().st_mtime_ns
    again = manta_cli("tune", str(file), timeout=420)
    return {"folder": folder, "recipe": recipe, "before": before, "made_at": made_at, "again": again}


def test_a_killed_sweep_carries_on(swept: dict[str, Any]) -> None:
    again = swept["again"]
    assert again.returncode == 0, again.stderr
    made = artifacts.open_artifact("run", str(swept["folder"]))
    assert made.fingerprint == swept["before"]
    assert (swept["folder"] / "run/trials/000/COMPLETE").stat().st_mtime_ns == swept["made_at"], "not trained again"
    assert "1 of 3 trials are complete already" in again.stderr
    assert "experiment" not in again.stdout, "stdout is Manta's own"


def test_a_failed_trial_is_recorded_and_the_best_of_the_others_wins(swept: dict[str, Any]) -> None:
    made = artifacts.open_artifact("run", str(swept["folder"]))
    lines = [json.loads(line) for line in made.folder.read_text("trials.jsonl").splitlines()]
    assert [line["status"] for line in lines] == ["complete", "complete", "failed"]
    assert "adapt.freeze_layers = 99, but the model has 2 layers" in lines[2]["reason"]
    best = min(lines[:2], key=lambda line: line["metric"])
    assert made.metrics["best_trial"] == best["trial"]
    assert made.metrics["best_overrides"] == best["overrides"]
    assert made.metrics["validation_loss"] == best["metric"]
    assert (made.metrics["trials"], made.metrics["failed_trials"]) == (3, 1)
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert made.folder.file_sha256(f"model/{name}") == made.folder.file_sha256(
            f"trials/{best['trial']}/model/{name}"
        )
    assert 6 in json.loads(made.folder.read_text("model/generation_config.json"))["eos_token_id"], (
        "answers end with <|end|>"
    )


def test_a_trial_is_an_ordinary_run(
    swept: dict[str, Any], ray_session: None, output: str, silent: Progress, tiny_model: Path, pairs: Path
) -> None:
    """The second trial, trained alone under the same recipe, gives the same fingerprint and the same bytes."""
    recipe = recipes.validate(swept["recipe"])
    assert isinstance(recipe, TuneRecipe)
    trial = space.trials(recipe, str(pairs), str(tiny_model), output)[1]
    alone = stage.run(trial.recipe, silent).artifact
    swept_trial = artifacts.open_artifact("001", f"{swept['folder']}/run/trials")
    assert alone.fingerprint == swept_trial.fingerprint
    assert alone.manifest["content"] == swept_trial.manifest["content"]


def test_lora_under_zero_2_leaves_an_adapter_that_peft_loads_and_a_merged_model(
    ray_session: None, output: str, silent: Progress, tiny_model: Path, pairs: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = {"method": "lora", "rank": 4, "targets": ["q_proj", "v_proj"]}
    resources = {"workers": 2, "zero_stage": 2, "micro_batch": 1}
    recipe = recipes.validate(
        raw(
            "finetune",
            tiny_model,
            pairs,
            output,
            adapt=settings,
            resources=resources,
            optimizer={"lr": 1e-2, "precision": "fp32"},
        )
    )
    assert isinstance(recipe, FinetuneRecipe)
    made = stage.run(recipe, silent).artifact
    place = Folder(made.folder.url).local_path
    assert place is not None

    def logits(model: Any) -> Any:
        with torch.no_grad():
            return model.eval()(input_ids=torch.arange(20, 52)[None]).logits

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    untouched = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, place / "adapter"))
    merged = logits(AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32))
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert (adapted - untouched).abs().max() > 1e-3, "three steps at this rate do move the answers"
