"""A tiny Llama under DeepSpeed in one process, beside the same in plain PyTorch: for tests of what they make of a step."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta.objectives.clm import clm
from manta.sections.optimisation import Optimizer
from manta.sections.resources import TrainResources
from manta.train import optimizers, shm_op
from manta.train.engine import prepare_process

VOCAB, SEQ, ROWS = 64, 16, 4


@contextlib.contextmanager
def group_of_one(folder: Path) -> Iterator[None]:
    """A process group, as Ray Train would make it, of this process alone."""
    store = torch.distributed.FileStore(str(folder / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@contextlib.contextmanager
def lone_process(folder: Path) -> Iterator[None]:
    """The same, ready for DeepSpeed."""
    prepare_process(TrainResources())
    with group_of_one(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        from deepspeed.utils import groups

        groups._release_process_group_references(group=None)  # an earlier test's group, which is no more
        yield
        groups._release_process_group_references(group=None)


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, num_key_value_heads=1, tie_word_embeddings=True, **sizes))


def settings(name: str, **keys: Any) -> Optimizer:
    return Optimizer.model_validate({"name": name, "precision": "fp32", "layer_lr_decay": 0.9, **keys})


def loss_of(module: Any, step: int, scale: float = 1.0) -> torch.Tensor:
    ids = torch.tensor(np.random.default_rng(step).integers(0, VOCAB, (ROWS, SEQ)))
    loss, scored = clm(module, {"input_ids": ids})
    return loss / scored * scale


class Under:
    """The model under DeepSpeed, with the optimizer of Manta that `chosen` names."""

    def __init__(self, chosen: Optimizer, stage: int, universal: bool = False):
        import deepspeed

        module = model()
        self.chosen = chosen
        self.optimizer = optimizers.make(optimizers.groups(module, chosen), chosen)
        self.hold = optimizers.Hold(self.optimizer)
        config = {
            "train_micro_batch_size_per_gpu": ROWS,
            "bf16": {"enabled": chosen.precision == "bf16"},
            "gradient_clipping": chosen.grad_clip,
            "zero_optimization": {"stage": stage, "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "checkpoint": {"load_universal": universal},
        }
        self.hold.on = True
        with contextlib.redirect_stdout(sys.stderr):
            shm_op.settle()
            self.engine, *_ = deepspeed.initialize(
                model=module, optimizer=self.optimizer, config=config, dist_init_required=False
            )
        self.hold.on = False

    def step(self, step: int, lowest: int = 0, scale: float = 1.0) -> float:
        optimizers.set_rates(self.engine.optimizer.param_groups, self.chosen.lr, lowest)
        self.engine.train()
        loss = loss_of(self.engine, step, scale)
        self.engine.backward(loss, scale_wrt_gas=False)
        self.engine.step()
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.engine.save_checkpoint(str(folder), tag="saved", save_latest=False)

    def load(self, folder: Path, tag: str = "saved") -> None:
        with contextlib.redirect_stdout(sys.stderr), optimizers.kept_apart(self.optimizer):
            self.engine.load_checkpoint(str(folder), tag=tag)


def plain(chosen: Optimizer, steps: int) -> list[float]:
    """The losses of the same steps without DeepSpeed."""
    module = model()
    optimizer = optimizers.make(optimizers.groups(module, chosen), chosen)
    losses = []
    for step in range(steps):
        optimizers.set_rates(optimizer.param_groups, chosen.lr)
        loss = loss_of(module, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), chosen.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses
