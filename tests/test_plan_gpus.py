"""Advice on GPUs: what it recommends fits, what it says of time and price is arithmetic, what cannot fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import hardware, plan
from manta import recipe as recipes
from manta.errors import InputError

WEIGHTS = 6_738_415_616
RUN: dict[str, Any] = {
    "kind": "pretrain",
    "name": "large",
    "data": {"shards": "not-there-yet"},
    "model": {"preset": "llama-7b"},
    "batch": {"samples": 1024},
    "stop": {"tokens": 1_000_000_000_000},
    "checkpoint": {"keep": 2},
}


def advised(output: Path, changes: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    raw = json.loads(json.dumps({**RUN, "output": str(output), **(changes or {})}))
    options = {"gpu": "h100", "seq_len": 4096, "vocab_size": 32000, **given}
    return plan.plan(recipes.validate(raw), plan.Given(**options))


@pytest.mark.parametrize("count", [8, 64])
def test_a_7b_run_fits_with_a_margin(tmp_path: Path, count: int) -> None:
    figures = advised(tmp_path, gpus=count)
    chosen, held = figures["recommended"], figures["memory_per_worker"]
    assert held["total_bytes"] <= 0.9 * 80e9
    assert held["total_bytes"] == sum(
        held[f"{part}_bytes"] for part in ("weights", "gradients", "optimizer", "activations", "buffers", "process")
    )
    assert figures["accumulation"] * chosen["resources.micro_batch"] * count == 1024
    assert held["optimizer_bytes"] == 12 * WEIGHTS // count
    assert not chosen["resources.activation_checkpointing"], "there is room for the activations"


def test_hours_and_price_by_hand(tmp_path: Path) -> None:
    """6 N + attention, a token, at 40% of 8 x 989.4 TFLOP/s; 8 GPUs at 2 an hour."""
    figures = advised(tmp_path, gpus=8, price_per_gpu_hour=2.0)
    tokens = -(-1_000_000_000_000 // (1024 * 4096)) * 1024 * 4096
    a_token = 6 * (WEIGHTS - 32000 * 4096) + 12 * 32 * 4096 * 4096
    rate = 8 * 0.4 * 989.4e12
    assert figures["tokens_per_s"] == pytest.approx(rate / a_token)
    assert figures["hours"] == pytest.approx(tokens * a_token / rate / 3600)
    assert figures["cost"] == pytest.approx(figures["hours"] * 16, abs=0.01)
    assert figures["disk_bytes"] == 3 * (2 + 12) * WEIGHTS + 2 * WEIGHTS


def test_recomputing_is_the_last_resort_and_costs_a_third_more(tmp_path: Path) -> None:
    small = advised(tmp_path, gpu="a100-40", gpus=8)
    assert small["recommended"]["resources.activation_checkpointing"]
    assert small["memory_per_worker"]["total_bytes"] <= 0.9 * 40e9
    assert small["mfu"] == pytest.approx(0.3)


def test_every_choice_shares_out_the_batch(tmp_path: Path) -> None:
    figures = advised(tmp_path, {"batch": {"samples": 24}}, gpus=8)
    assert figures["recommended"]["resources.micro_batch"] * figures["accumulation"] * 8 == 24
    with pytest.raises(InputError, match=r"--gpus 7: a global batch of 24 rows"):
        advised(tmp_path, {"batch": {"samples": 24}}, gpus=7)


def test_muon_is_only_advised_where_it_works(tmp_path: Path) -> None:
    model = {"preset": "llama-1b", "max_position_embeddings": 4096}
    figures = advised(tmp_path, {"model": model, "optimizer": {"name": "muon"}}, gpus=8)
    assert figures["recommended"]["resources.zero_stage"] == 0


def test_what_fits_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--gpu l4 --gpus 1: a worker needs \d+\.\d GiB at least.*name more GPUs"):
        advised(tmp_path, gpu="l4", gpus=1)
    with pytest.raises(InputError, match=r"--gpu h1000: is not known: choose one of a100-40, a100, h100"):
        advised(tmp_path, gpu="h1000")


def test_without_rows_there_is_nothing_to_advise_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there yet"):
        advised(tmp_path, seq_len=None)


def test_the_recommendation_is_settings_of_a_recipe(tmp_path: Path) -> None:
    figures = advised(tmp_path, gpus=8)
    raw = json.loads(json.dumps({**RUN, "output": str(tmp_path)}))
    for path, value in figures["recommended"].items():
        recipes.set_path(raw, path, value)
    assert recipes.validate(raw).resources.workers == 8  # type: ignore[union-attr]
    assert "resources.zero_stage" in plan.text(figures)


def test_names_of_drivers_lead_to_the_same_cards() -> None:
    found = hardware.of_driver("NVIDIA H100 80GB HBM3")
    assert found is hardware.GPUS["h100"] is hardware.named("h100")
    assert hardware.of_driver("NVIDIA H1000") is None
    assert all(gpu.bf16 > gpu.fp32 > 1e13 and gpu.memory_bytes >= 24e9 for gpu in hardware.GPUS.values())


def test_the_command_line_passes_what_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from manta.cli import main

    place = tmp_path / "large.yaml"
    place.write_text(json.dumps({**RUN, "output": str(tmp_path)}))
    words = ["plan", str(place), "--json", "--gpu", "h200", "--gpus", "16", "--mfu", "0.5", "--price-per-hour", "3"]
    assert main([*words, "--seq-len", "2048", "--vocab-size", "32000"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["gpu"], figures["gpus"], figures["mfu"]) == ("h200", 16, 0.5)
    assert figures["cost"] == pytest.approx(figures["hours"] * 48, abs=0.01)


def test_a_store_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    """A cluster's recipe is planned on a laptop: its rows as the options say, and what the laptop lacks."""
    figures = advised(tmp_path, {"output": "nowhere://bucket/runs"}, gpus=64)
    assert figures["recommended"]["resources.workers"] == 64
    assert any("nowhere://bucket/runs" in note and "s3://" in note for note in figures["notes"])
