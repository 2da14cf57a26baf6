"""The one home of DeepSpeed: start an engine, take a step, save, load, and collect the weights."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from manta import kernels
from manta.models.build import recompute
from manta.objectives import mean
from manta.sections.optimisation import Optimizer
from manta.sections.resources import TrainResources
from manta.train import memory, optimizers, shm_op, zero
from manta.train.snapshot import Snapshot

Objective = Callable[[Any, Mapping[str, Any]], tuple[Any, Any]]
Decide = Callable[[float, float | None], bool]


def prepare_process(resources: TrainResources) -> None:
    """Set what DeepSpeed and torch read at import or start. Call before `Engine`, in the worker."""
    if resources.gpus_per_worker == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import torch

    if resources.gpus_per_worker == 0:
        torch.set_num_threads(resources.cpus_per_worker)
        memory.keep()
        kernels.keep()


class Engine:
    """A model under DeepSpeed, the same interface for every ZeRO stage and any number of workers."""

    def __init__(
        self,
        model: Any,
        objective: Objective,
        optimizer: Optimizer,
        resources: TrainResources,
        accumulation: int,
        universal: bool = False,
        by_layer: bool = False,
    ):
        """`universal`: the checkpoint that will be loaded is a universal one. `by_layer`: layers join one by one."""
        if resources.activation_checkpointing:
            recompute(model)
        if resources.compile:
            model.compile(options={"fallback_random": True})  # dropout's numbers stay those of the model as it is
        self.layers = optimizers.depths(name for name, _ in model.named_parameters()).layers
        self.moves = optimizers.make(optimizers.groups(model, optimizer, by_layer), optimizer)
        self.hold = optimizers.Hold(self.moves)
        moving = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        with _quiet():
            import deepspeed

            if resources.gpus_per_worker == 0:
                shm_op.settle()
            self.hold.on = True  # with bf16 and ZeRO 0, DeepSpeed tries a step here, which would count as the first
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model,
                optimizer=self.moves,
                config=zero.config(optimizer, resources, accumulation, universal, moving),
                dist_init_required=False,
            )
            self.hold.on = False
        self.model = model
        self.objective = objective
        self.resources = resources
        self.device = self.engine.device
        self.wrapped, self.grad_clip = zero.wrapped(optimizer, resources), optimizer.grad_clip
        if not self.wrapped and resources.workers == 1:
            self.engine.enable_backward_allreduce = False  # it would copy all gradients there and back
        self._snapshot = Snapshot()
        self.partly_frozen = any(not parameter.requires_grad for parameter in model.parameters())

    def _micro_batches(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Split numpy int32 arrays (rows, seq) into tensors (micro_batch, seq) on the device."""
        import torch

        rows = len(next(iter(batch.values())))
        for first in range(0, rows, self.resources.micro_batch):
            yield {
                name: torch.tensor(values[first : first + self.resources.micro_batch], device=self.device)
                for name, values in batch.items()
            }

    def step(
        self,
        batch: Mapping[str, Any],
        scored: list[float],
        lr: float,
        lowest: int = 0,
        decide: Decide | None = None,
        objective: Objective | None = None,
    ) -> tuple[float, float]:
        """One optimizer step on this rank's rows, with the loss averaged over what is `scored` on *all* ranks.

        `scored` has a count for each part of the objective, of which the loss is the sum of means. Layers below
        `lowest` stay as they are. `decide(share of the loss, norm or None)` says before the update whether it is made.
        `objective` stands in for the engine's own.

        Returns this rank's share of the loss (nats; the shares of all ranks add up to the global mean) and the global
        gradient norm before clipping.
        """

        optimizers.set_rates(self.engine.optimizer.param_groups, lr, lowest)
        self.engine.train()
        total, norm = 0.0, None
        for micro in self._micro_batches(batch):
            sums, _ = (objective or self.objective)(self.engine, micro)
            loss = mean(sums, scored)
            # DeepSpeed averages gradients over the workers; the mean over tokens is taken here already.
            self.engine.backward(loss * self.resources.workers, scale_wrt_gas=False)
            if not self.wrapped and self.engine.is_gradient_accumulation_boundary():
                norm = self._clip()
            total += float(loss.detach())
            if decide is not None and self.engine.is_gradient_accumulation_boundary():
                self.hold.on = not decide(total, None if norm is None else float(norm))
            self.engine.step()
            self.hold.on = False
        return total, float(self.engine.get_global_grad_norm() if norm is None else norm)

    def _clip(self) -> Any:
        """Bring the norm of all gradients down to grad_clip if it is above; returns what it was."""
        import torch

        moving = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in moving])
        torch.nn.utils.clip_grads_with_norm_(moving, self.grad_clip, norm)
        return norm

    def evaluate(self, batch: Mapping[str, Any], objective: Objective | None = None) -> tuple[list[float], list[float]]:
        """Sums of losses and numbers of what is scored over this rank's rows, one of each part, without training.

        `objective` stands in for the engine's own; it sees the rows in their order.
        """
        import torch

        self.engine.eval()
        losses, scored = [], []
        with torch.no_grad():
            for micro in self._micro_batches(batch):
                sums, counts = (objective or self.objective)(self.engine, micro)
                losses.append(sums.double().reshape(-1))
                scored.append(counts.double().reshape(-1))
        return torch.stack(losses).sum(0).tolist(), torch.stack(scored).sum(0).tolist()

    def total(self, values: list[float]) -> list[float]:
        """Elementwise sums over all ranks, in double precision."""
        import torch

        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(total)
        return [float(value) for value in total.cpu()]

    def snapshot(self, tag: str) -> Snapshot:
        """Copy this rank's part of the checkpoint `tag`. All ranks must call it. The next call uses the memory again."""
        # These write at once: what is saved goes through the snapshot, and the scripts are part of DeepSpeed itself.
        writer, self.engine.checkpoint_engine = self.engine.checkpoint_engine, self._snapshot
        self.engine._copy_recovery_script = lambda _: None
        self._snapshot.begin(f"{os.curdir}/{tag}")
        try:
            with _quiet():
                self.engine.save_checkpoint(
                    os.curdir, tag=tag, save_latest=False, exclude_frozen_parameters=self.partly_frozen
                )
        finally:
            self.engine.checkpoint_engine = writer
        self._snapshot.end()
        return self._snapshot

    def load(self, parent: Path, tag: str) -> None:
        """Load weights, optimizer state and counters from parent/tag. All ranks must call it."""
        with _quiet(), optimizers.kept_apart(self.moves):
            where, _ = self.engine.load_checkpoint(str(parent), tag=tag, load_module_strict=not self.partly_frozen)
        if where is None:
            raise RuntimeError(f"DeepSpeed found no checkpoint in {parent / tag}")

    def weights(self) -> dict[str, Any] | None:
        """The whole model's state dict on the CPU on rank 0; None on others. All ranks must call it."""
        import torch

        if self.resources.zero_stage == 3:
            state = self.engine._zero3_consolidated_16bit_state_dict()
        else:
            state = self.engine.module.state_dict()
        if torch.distributed.get_rank() != 0:
            return None
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def to_universal(source: Path, target: Path) -> None:
    """Convert a checkpoint of ZeRO 1, 2 or 3 into one that any number of workers can load (arXiv:2406.18820)."""
    import argparse

    with _quiet():
        from deepspeed.checkpoint import ds_to_universal

        ds_to_universal.main(
            argparse.Namespace(
                input_folder=str(source),
                output_folder=str(target),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed prints to stdout, which belongs to the command line's own output: send that to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
