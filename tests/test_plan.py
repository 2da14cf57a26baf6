"""The plan of every kind: right figures, honest gaps, refusals with a remedy, and no heavy import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manta import plan
from manta import recipe as recipes
from manta.errors import InputError
from manta.models import memory, presets
from manta.plan import training
from manta.sections.model import NewModel

PRETRAIN: dict[str, Any] = {
    "kind": "pretrain",
    "name": "base",
    "data": {"shards": "shards"},
    "batch": {"samples": 16},
    "stop": {"tokens": 1_000_000},
}
FINETUNE: dict[str, Any] = {
    "kind": "finetune", "name": "tuned", "data": {"examples": "shards"}, "model": {"source": "base"}, "batch": {"samples": 8}, "stop": {"epochs": 2.0},
    "task": {"name": "summarisation", "max_input_tokens": 100, "max_target_tokens": 28},
}  # fmt: skip


def planned(raw: dict[str, Any], output: Path, **changes: Any) -> dict[str, Any]:
    raw = json.loads(json.dumps({**raw, "output": str(output)}))
    for path, value in changes.items():
        recipes.set_path(raw, path.replace("__", "."), value)
    return plan.plan(recipes.validate(raw))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with shards of 1,000 rows and a model, as far as a plan reads them."""
    (tmp_path / "shards").mkdir()
    file = {"path": "train/00000.parquet", "rows": 1000, "tokens": 256_000, "bytes": 1, "sha256": "0"}
    index = {
        "seq_len": 256,
        "vocab_size": 8192,
        "eos_id": 0,
        "bos_id": 0,
        "pad_id": 2,
        "splits": {"train": [file], "validation": []},
    }
    (tmp_path / "shards/shards.json").write_text(json.dumps(index))
    (tmp_path / "shards/manifest.json").write_text(json.dumps({"metrics": {"train_examples": 400}}))
    (tmp_path / "base/model").mkdir(parents=True)
    (tmp_path / "base/model/config.json").write_text(json.dumps(presets.config(NewModel(), 8192, {})))
    return tmp_path


def test_pretrain(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = planned(PRETRAIN, output, resources__workers=2)
    assert figures["steps"] == 245
    assert figures["tokens"] == 245 * 16 * 256
    assert figures["accumulation"] == 2
    assert figures["parameters"] == 6_819_072
    parts = figures["memory_per_worker"]
    assert parts["optimizer_bytes"] == 6_819_072 * 12 // 2
    assert parts["total_bytes"] == sum(size for name, size in parts.items() if name != "total_bytes")
    rates = {rate: figures["flops"] / (2 * training.FLOPS_PER_CORE[rate]) / 3600 for rate in training.FLOPS_PER_CORE}
    native = planned(PRETRAIN, output, resources__workers=2, resources__address="10.0.0.1:6379")
    assert native["hours"] == pytest.approx(rates["bf16"])
    monkeypatch.setattr("manta.hardware.bf16_in_processor", lambda: False)
    emulated = planned(PRETRAIN, output, resources__workers=2)
    assert emulated["hours"] == pytest.approx(rates["emulated bf16"])
    assert any("emulated bf16" in note for note in emulated["notes"])
    for intel, rate in ((True, "fp32"), (False, "AMD's fp32")):
        monkeypatch.setattr("manta.kernels.is_intel", lambda intel=intel: intel)
        here = planned(PRETRAIN, output, resources__workers=2, optimizer__precision="fp32")
        assert here["hours"] == pytest.approx(rates[rate])
    assert "steps                245" in plan.text(figures)


def test_without_shards_it_says_what_is_not_known(tmp_path: Path) -> None:
    figures = planned(PRETRAIN, tmp_path)
    assert "steps" not in figures
    assert any("is not there yet" in note for note in figures["notes"])


@pytest.mark.parametrize(
    ("adapt", "trainable"),
    [({"method": "full"}, None), ({"method": "lora", "rank": 4}, 6 * 4 * (512 + 512 + 384 + 384))],
)
def test_finetune_counts_what_moves(output: Path, adapt: dict[str, Any], trainable: int | None) -> None:
    figures = planned({**FINETUNE, "adapt": adapt}, output)
    assert figures["steps"] == 100  # 400 examples twice, 8 a step
    assert figures.get("trainable_parameters") == trainable


def test_only_targets_have_logits(output: Path) -> None:
    """A row of 128 tokens has at most 29 with a loss: 28 of the target, and its end."""
    narrow = planned(FINETUNE, output)
    wide = planned(FINETUNE, output, task__max_input_tokens=1, task__max_target_tokens=127)
    micro_batch, unscored = 4, 128 - 29
    less = wide["memory_per_worker"]["activations_bytes"] - narrow["memory_per_worker"]["activations_bytes"]
    assert less == micro_batch * unscored * 8192 * memory.LOGIT
    assert narrow["flops"] / narrow["tokens"] < wide["flops"] / wide["tokens"]


def test_tune_multiplies(output: Path) -> None:
    one = planned(FINETUNE, output)
    trial = {key: value for key, value in FINETUNE.items() if key != "name"}
    search = {"space": {"optimizer.lr": {"choice": [1e-3, 1e-4]}}, "trials": 5}
    many = planned({"kind": "tune", "name": "sweep", "trial": trial, "search": search}, output)
    assert many["flops"] == 5 * one["flops"]
    assert many["disk_bytes"] == 5 * one["disk_bytes"]


def test_what_cannot_fit_is_refused_with_what_would(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = {"memory_bytes": 64 * plan.GIB}
    monkeypatch.setattr("manta.artifact.hardware", lambda: hardware)
    changes: dict[str, Any] = {
        "model": {"preset": "llama-1b"},
        "resources__workers": 4,
        "resources__zero_stage": 0,
        "resources__micro_batch": 4,
    }
    with pytest.raises(
        InputError, match=r"this machine has 64\.0 GiB: set resources\.zero_stage=(\d) resources\.micro_batch=(\d)"
    ) as refusal:
        planned(PRETRAIN, output, **changes)
    remedy = str(refusal.value).split("set ")[1].split()
    for setting in remedy:
        path, value = setting.split("=")
        changes[path.replace(".", "__")] = json.loads(value)
    assert planned(PRETRAIN, output, **changes)["memory_bytes"] <= hardware["memory_bytes"]


def test_what_fits_nowhere_here_names_the_ways_out(output: Path) -> None:
    with pytest.raises(InputError, match="choose a smaller model, or a cluster"):
        planned(PRETRAIN, output, model={"preset": "llama-7b", "num_layers": 2000})


def test_a_cluster_is_not_judged_by_this_machine(output: Path) -> None:
    figures = planned(
        PRETRAIN, output, model={"preset": "llama-7b", "num_layers": 2000}, resources__address="10.0.0.1:6379"
    )
    assert "memory_bytes" not in figures


def test_a_batch_that_cannot_be_shared_is_refused(output: Path) -> None:
    with pytest.raises(InputError, match=r"set resources\.workers=2"):
        planned(PRETRAIN, output, resources__workers=3)


def test_rows_longer_than_the_model(output: Path) -> None:
    with pytest.raises(InputError, match=r"set model\.max_position_embeddings=256"):
        planned(PRETRAIN, output, model={"preset": "llama-tiny", "max_position_embeddings": 128})


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": "prepare", "name": "shards", "data": {"sources": [{"path": "x", "format": "text"}]}},
        {
            "kind": "compress",
            "name": "small",
            "model": {"source": "base"},
            "compress": {"quantise": {}, "calibration": {"shards": "shards"}},
        },
        {"kind": "serve", "name": "endpoint", "model": {"source": "base"}},
    ],
    ids=lambda raw: raw["kind"],
)
def test_other_kinds(output: Path, raw: dict[str, Any]) -> None:
    figures = planned(raw, output)
    assert json.loads(json.dumps(figures)) == figures
    assert raw["name"] in plan.text(figures)
    if raw["kind"] != "prepare":
        assert figures["parameters"] == 6_819_072


def test_a_model_that_is_only_quantised_is_in_memory_once(output: Path) -> None:
    raw = {"kind": "compress", "name": "small", "model": {"source": "base"}}
    alone, pruned = (
        planned({**raw, "compress": {"quantise": {}, "calibration": {"shards": "shards"}, **more}}, output)
        for more in ({}, {"prune": {"layers": 0.25}})
    )
    assert pruned["memory_bytes"] - alone["memory_bytes"] == 4 * 6_819_072


def test_an_endpoint_of_two_models_needs_the_memory_of_both(output: Path) -> None:
    one = {"kind": "serve", "name": "endpoint", "model": {"source": "base"}}
    two = {
        "kind": "serve",
        "name": "endpoint",
        "models": {
            "a": {"source": "base", "max_replicas": 2, "kv_cache_gib": 0.5},
            "b": {"source": "base", "dtype": "float32"},
        },
    }
    alone, both = planned(one, output), planned(two, output)
    weights, cache = 6_819_072, 2**30
    processes = alone["memory_bytes"] - 2 * weights - cache
    assert both["memory_bytes"] == processes + 2 * (2 * weights + cache // 2) + (4 * weights + cache)
    assert (both["replicas"], both["parameters"]) == (3, 2 * weights)


def test_planning_loads_no_heavy_library(output: Path) -> None:
    code = (
        "import sys, json; from manta import plan, recipe; "
        "print(plan.plan(recipe.validate(json.loads(sys.argv[1])))['steps']); "
        "print(sorted({'torch', 'ray', 'transformers', 'pyarrow', 'deepspeed'} & set(sys.modules)))"
    )
    raw = json.dumps({**PRETRAIN, "output": str(output)})
    answer = subprocess.run([sys.executable, "-c", code, raw], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == ["245", "[]"]
