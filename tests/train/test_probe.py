"""A recipe tried for a few steps: memory that is really held, a plan that says what was measured, and nothing left behind."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import plan
from manta import recipe as recipes
from manta.compress.quantising.memory import trim
from manta.errors import InputError
from manta.models.build import build
from manta.models.presets import config
from manta.objectives import TABLE
from manta.schema import NewModel, Optimizer
from manta.sections.resources import TrainResources
from manta.train import probe
from tests.train.counting import SEQ, STEPS, raw_recipe, write_shards

pytestmark = pytest.mark.integration
ROWS, VOCAB = 4, 512


# --- one process, without Ray ----------------------------------------------------------------------------------------


def follow(preset: str, steps: int, **resources: Any) -> probe.Measured:
    from manta.train.engine import Engine

    settings = TrainResources.model_validate({"micro_batch": ROWS, **resources})
    rng = np.random.default_rng(0)
    return probe.follow(
        lambda: build(config(NewModel.model_validate({"preset": preset}), VOCAB, {}), 0),
        lambda model: Engine(model, TABLE["clm"].loss, Optimizer(precision="fp32"), settings, accumulation=1),
        ({"input_ids": rng.integers(0, VOCAB, (ROWS, 64)).astype(np.int32)} for _ in range(steps)),
        TABLE["clm"].scored,
    )


def test_what_is_followed_holds_its_model(alone: None) -> None:
    """Weights, gradients, two moments and the copy of a checkpoint, 4 + 4 + 8 + 12 bytes a weight: at least most of them."""
    from manta.models import formulas

    follow("llama-tiny", 2, zero_stage=0)
    gc.collect()
    trim()  # what other tests freed would be taken again, and not be seen to grow
    found = follow("llama-7m", 4, zero_stage=0)
    weights = formulas.num_parameters(config(NewModel(preset="llama-7m"), VOCAB, {}))
    assert found.steps == 4
    assert found.gpu_bytes == 0
    assert 0 < found.validation_row_s < found.step_s
    assert 0.8 * 28 * weights < found.training_bytes < 3 * 28 * weights
    assert found.process_bytes > 2**28


def test_long_steps_are_not_taken_too_often(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    assert follow("llama-tiny", 40, zero_stage=0).steps == probe.ENOUGH + 1


# --- under Ray Train -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("runs")
    write_shards(output)
    return str(output)


def test_a_plan_by_measurement(runs: str, ray_session: None) -> None:
    raw = raw_recipe(runs)
    before = sorted(str(path) for path in Path(runs).rglob("*"))
    figures = plan.plan(recipes.validate(raw), plan.Given(measure=True))
    assert sorted(str(path) for path in Path(runs).rglob("*")) == before, "nothing of the run is touched"
    assert figures["measured"] == ["memory_tried_per_worker", "seconds_per_step", "tokens_per_s", "hours"]
    assert figures["steps"] == STEPS
    assert figures["tokens_per_s"] == pytest.approx(8 * SEQ / figures["seconds_per_step"])
    tried = figures["memory_tried_per_worker"]
    assert tried["total_bytes"] == tried["process_bytes"] + tried["model_and_step_bytes"]
    assert 3600 * figures["hours"] > STEPS * figures["seconds_per_step"], "and the validations"
    shown = plan.text(figures)
    assert "hours" in shown and "(measured)" in shown
    assert not any("assume" in note for note in figures["notes"])


def test_what_would_be_refused_is_not_tried(runs: str) -> None:
    raw = raw_recipe(runs)
    raw["objective"] = {"name": "mlm"}
    with pytest.raises(InputError, match=r"objective\.name"):
        plan.plan(recipes.validate(raw), plan.Given(measure=True))
