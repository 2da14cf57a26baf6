"""A step without memory is explained by settings that save some; other errors are left alone."""

from __future__ import annotations

import pytest
import torch

from manta.sections.resources import TrainResources
from manta.train import exhausted


def spent() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    return caught.value


def test_a_cpu_without_memory() -> None:
    said = exhausted.explained(spent(), TrainResources(micro_batch=8, zero_stage=1))
    assert said is not None
    assert "resources.micro_batch = 8 does not fit" in said
    assert "set resources.micro_batch=4 or resources.activation_checkpointing=true or resources.zero_stage=2" in said


def test_a_gpu_without_memory_and_nothing_left_to_set() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    resources = TrainResources(micro_batch=1, zero_stage=3, activation_checkpointing=True)
    said = exhausted.explained(error, resources)
    assert said is not None
    assert "use more workers or larger GPUs (CUDA out of memory" in said


def test_stage_0_is_not_told_to_change_its_stage() -> None:
    """A checkpoint of it could not be loaded."""
    assert "zero_stage" not in str(exhausted.explained(spent(), TrainResources(zero_stage=0)))


def test_other_errors_are_none_of_its_business() -> None:
    assert exhausted.explained(RuntimeError("shapes do not fit"), TrainResources()) is None
