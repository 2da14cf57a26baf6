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
from manta.schema import FinetuneRecipe
from manta.storage import Folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def trial(model: Path, pairs: Path, **changes: Any) -> dict[str, Any]:
    made = {
        "data": {"examples": str(pairs), "validation_fraction": 0.3},
        "model": {"source": str(model)},
        "task": {"name": "chat", "max_tokens": 64},
        "optimizer": {"lr": 1.0e-3, "precision": "fp32"},
        "batch": {"samples": 4},
        "stop": {"steps": 6},
        "resources": {"micro_batch": 2},
    }
    return made | changes


def sweep(model: Path, pairs: Path, output: Path, **search: Any) -> dict[str, Any]:
    """Four trials, of which one must fail; at steps 2 and 4 the better half goes on."""
    entries = {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}, "adapt.freeze_layers": {"choice": [0, 1, 99]}}
    return {
        "kind": "tune",
        "name": "run",
        "output": str(output),
        "seed": 1,
        "trial": {"kind": "finetune", **trial(model, pairs, adapt={"method": "freeze"})},
        "search": {
            "trials": 4,
            "in_flight": 2,
            "space": entries,
            "early": {"method": "asha", "first_step": 2, "factor": 2},
            **search,
        },
        "resources": {"concurrent_trials": 2},
    }


def table(folder: Path) -> list[dict[str, Any]]:
    """What a sweep says of its trials, but for how long they took."""
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    timed = ("seconds", "train_seconds", "worker_seconds", "tokens_per_second", "resumed_from_step")
    return [line | {"figures": {k: v for k, v in line["figures"].items() if k not in timed}} for line in lines]


@pytest.fixture(scope="module")
def swept(
    tiny_model: Path,
    pairs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    manta_cli: Any,
    wait_until: Callable[..., None],
) -> dict[str, Any]:
    """A sweep that runs to its end, and the same one killed -9 and then resumed."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    for folder in (whole, broken):
        (folder / "tune.yaml").write_text(yaml.safe_dump(sweep(tiny_model, pairs, folder)))
    undisturbed = manta_cli("tune", str(whole / "tune.yaml"), timeout=420)
    killed = manta_cli.start("tune", str(broken / "tune.yaml"))
    trains = lambda: any("train" in file.read_text() for file in broken.glob("run/trials/*/metrics.jsonl"))  # noqa: E731
    wait_until(lambda: trains() or killed.poll() is not None, seconds=300, what="a trial that trains")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (broken / "run/COMPLETE").exists()
    again = manta_cli("resume", str(broken / "run"), timeout=420)
    return {"whole": whole / "run", "broken": broken / "run", "undisturbed": undisturbed, "again": again}


def test_a_killed_sweep_ends_as_the_undisturbed_one(swept: dict[str, Any]) -> None:
    assert swept["undisturbed"].returncode == 0, swept["undisturbed"].stderr
    assert swept["again"].returncode == 0, swept["again"].stderr
    assert table(swept["broken"]) == table(swept["whole"])
    one, two = (artifacts.open_artifact("run", str(swept[name].parent)) for name in ("whole", "broken"))
    assert one.fingerprint == two.fingerprint
    assert one.folder.file_sha256("model/model.safetensors") == two.folder.file_sha256("model/model.safetensors")
    assert "experiment" not in swept["again"].stdout, "stdout is Manta's own"


def test_trials_fail_are_given_up_and_the_best_wins(swept: dict[str, Any]) -> None:
    made = artifacts.open_artifact("run", str(swept["whole"].parent))
    lines = table(swept["whole"])
    by_status = {
        status: [line for line in lines if line["status"] == status] for status in ("complete", "given up", "failed")
    }
    assert all(by_status.values()), "the seed has all three"
    assert len(lines) == 4
    for line in by_status["failed"]:
        assert "adapt.freeze_layers = 99, but the model has 2 layers" in line["reason"]
    for line in by_status["given up"]:
        assert line["step"] in (2, 4)
        assert not (swept["whole"] / f"trials/{line['trial']}/COMPLETE").exists()
        steps = [json.loads(text)["step"] for text in (swept["whole"] / f"trials/{line['trial']}/metrics.jsonl").open()]
        assert max(steps) == line["step"], "not a step more"
    best = min(by_status["complete"], key=lambda line: line["figures"]["validation_loss"])
    assert made.metrics["best_trial"] == best["trial"]
    assert made.metrics["best_overrides"] == best["overrides"]
    assert made.metrics["objectives"] == {"validation_loss": best["figures"]["validation_loss"]}
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert made.folder.file_sha256(f"model/{name}") == made.folder.file_sha256(
            f"trials/{best['trial']}/model/{name}"
        )
    assert 6 in json.loads(made.folder.read_text("model/generation_config.json"))["eos_token_id"], (
        "answers end with <|end|>"
    )


def test_the_winner_s_recipe_makes_it_again(
    swept: dict[str, Any], ray_session: None, output: str, silent: Progress
) -> None:
    """A trial is an ordinary run: its recipe, run alone and never held at a mark, gives the same weights."""
    recipe = recipes.load(swept["whole"] / "best.yaml", [f"output={output}"])
    assert isinstance(recipe, FinetuneRecipe)
    alone = stage.run(recipe, silent).artifact
    made = artifacts.open_artifact("run", str(swept["whole"].parent))
    winner = artifacts.open_artifact(made.metrics["best_trial"], f"{swept['whole']}/trials")
    assert alone.fingerprint == winner.fingerprint
    assert alone.folder.file_sha256("model/model.safetensors") == winner.folder.file_sha256("model/model.safetensors")
    assert alone.metrics["validation_loss"] == winner.metrics["validation_loss"]


def test_lora_under_zero_2_leaves_an_adapter_that_peft_loads_and_a_merged_model(
    ray_session: None, output: str, silent: Progress, tiny_model: Path, pairs: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = {"method": "lora", "rank": 4, "targets": ["q_proj", "v_proj"]}
    resources = {"workers": 2, "zero_stage": 2, "micro_batch": 1}
    recipe = recipes.validate(
        {"kind": "finetune", "name": "run", "output": output}
        | trial(
            tiny_model,
            pairs,
            adapt=settings,
            resources=resources,
            optimizer={"lr": 1e-2, "precision": "fp32"},
            stop={"steps": 3},
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
