"""A compiled model trains to the curve of the model as it is, dropout included; refused where it cannot work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manta.errors import InputError
from manta.models.build import build
from manta.models.presets import config
from manta.objectives import TABLE
from manta.sections.model import NewModel
from manta.sections.optimisation import Optimizer
from manta.sections.resources import TrainResources
from manta.train import run, shm_op
from manta.train.engine import Engine
from tests.train.under_deepspeed import ROWS, SEQ, VOCAB, lone_process


def test_stage_3_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resources\.zero_stage=0, 1 or 2"):
        TrainResources(compile=True, zero_stage=3)


def test_without_a_compiler_it_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_op, "compiler", lambda: None)
    run._check_compiler(TrainResources())
    run._check_compiler(TrainResources(compile=True, gpus_per_worker=1))
    with pytest.raises(InputError, match=r"install g\+\+, or set resources.compile=false"):
        run._check_compiler(TrainResources(compile=True))


@pytest.mark.integration
def test_the_curve_is_the_same(tmp_path: Path) -> None:
    with lone_process(tmp_path):
        plain, compiled = curve(False), curve(True)
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert plain[-1] < plain[0]


def curve(compiled: bool) -> list[float]:
    """The losses of some steps of a GPT-2 with dropout."""
    settings = config(NewModel(preset="gpt2-tiny", num_layers=1), VOCAB, {}) | {"resid_pdrop": 0.1, "embd_pdrop": 0.1}
    resources = TrainResources(zero_stage=0, micro_batch=ROWS, compile=compiled)
    optimizer = Optimizer.model_validate({"precision": "fp32", "lr": 1e-2})
    engine = Engine(build(settings, seed=3), TABLE["clm"].loss, optimizer, resources, accumulation=1)
    rows = np.random.default_rng(0).integers(0, VOCAB, (ROWS, SEQ)).astype(np.int32)
    losses = []
    for step in range(4):
        torch.manual_seed(step)
        losses.append(engine.step({"input_ids": rows}, [ROWS * (SEQ - 1)], lr=1e-2)[0])
    return losses
