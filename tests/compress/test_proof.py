"""Speed beside the base and the choice of a scheme, with real engines on the small trained model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manta import artifact as artifacts
from manta import cli, stage
from manta import recipe as recipes
from manta.errors import GateRefused
from manta.progress import Progress
from manta.schema import EvaluateRecipe
from manta.sections.compress import Quantise

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(600)]


def test_speed_is_measured_in_turns_and_the_gate_names_what_it_misses(trained: Trained, tmp_path: Path) -> None:
    from manta.compress import quantise

    small = tmp_path / "small"
    small.mkdir()
    quantise.apply(trained.model, small, Quantise(algorithm="rtn"), None, lambda *_: None)
    speed = {"batches": [1, 4], "prompt_tokens": 24, "new_tokens": 24, "rounds": 3}
    recipe = recipes.validate(
        {
            "kind": "evaluate",
            "name": "scores",
            "output": str(tmp_path),
            "model": {"source": str(small), "base": str(trained.model)},
            "data": {},
            "evaluate": {"perplexity_rows": 0, "speed": speed},
            "gate": {"size_ratio": 0.9, "speedup_1": 50.0},
            "resources": {"cpus": 1},
        }
    )
    assert isinstance(recipe, EvaluateRecipe)
    with pytest.raises(GateRefused, match=r"speedup_1 is \d+\.\d\d, the gate demands 50\.00"):
        stage.run(recipe, Progress(quiet=True))
    made = artifacts.open_artifact("scores", str(tmp_path))
    figures = made.metrics
    assert [miss.split()[0] for miss in figures["missed"]] == ["speedup_1"], "the size kept its promise"
    for prefix in ("", "base_"):
        assert figures[f"{prefix}tokens_per_second_4"] > figures[f"{prefix}tokens_per_second_1"] > 0
        assert figures[f"{prefix}first_token_ms"] > 0
        assert figures[f"{prefix}prefill_tokens_per_second"] > figures[f"{prefix}tokens_per_second_1"]
        assert figures[f"{prefix}peak_memory_bytes"] > 100e6
    assert 0.1 < figures["cpu_speedup_1"] < 10
    report = json.loads(made.folder.read_text("scores.json"))
    low, high = report["intervals"]["cpu_speedup_4"]
    assert low <= figures["cpu_speedup_4"] <= high
    assert {role: len(turns) for role, turns in report["speed"]["turns"].items()} == {"base": 3, "model": 3}


def test_the_best_scheme_is_found_by_measuring(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from manta.quick import compressing

    two = ({"scheme": "w8a8", "algorithm": "gptq"}, {"scheme": "w8a8", "algorithm": "rtn"})
    monkeypatch.setitem(compressing.CANDIDATES, "cpu", two)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.model, "learnt")
    speed = {"batches": [1], "prompt_tokens": 24, "new_tokens": 16, "rounds": 2}
    words = ["compress", "--model", "./learnt", "--data", str(trained.shards), "--for", "cpu", "--target", "size 0.9"]
    quick = [
        f"after.evaluate.evaluate.speed={json.dumps(speed)}",
        "search.objectives={evaluate.perplexity_ratio: min, evaluate.cpu_speedup_1: max}",
        "trial.resources.cpus=1",
        "after.evaluate.resources.cpus=1",
    ]
    args = cli.parse([*words, *quick])  # not cli.main, which disconnects from Ray
    assert args.call(args) == 0
    assert "2 schemes for cpu, each against ./learnt" in capsys.readouterr().out
    made = artifacts.open_artifact("learnt-for-cpu", "runs")
    lines = [json.loads(line) for line in made.folder.read_text("trials.jsonl").splitlines()]
    assert [line["status"] for line in lines] == ["complete", "complete"]
    assert [line["overrides"]["compress.quantise"] for line in lines] == list(two)
    ratios = [line["figures"]["evaluate.perplexity_ratio"] for line in lines]
    assert all(0.97 < ratio < 1.03 for ratio in ratios)
    assert all(line["figures"]["evaluate.cpu_speedup_1"] > 0.1 for line in lines)
    best = min(range(2), key=ratios.__getitem__)
    assert made.metrics["best_trial"] == lines[best]["trial"]
    ours, theirs = made.folder, artifacts.open_artifact(lines[best]["trial"], "runs/learnt-for-cpu/trials").folder
    assert ours.file_sha256("model/model.safetensors") == theirs.file_sha256("model/model.safetensors")
    page = made.folder.read_text("report.html")
    assert "Pareto set" in page
    assert "evaluate.cpu_speedup_1" in page
