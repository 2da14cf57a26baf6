"""Distillation against values by hand, its two ends, and the gradient's size whatever the temperature."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manta.errors import InputError
from manta.objectives import TABLE, loss_of
from manta.sections.objective import Distillation
from tests.objectives import tiny


def settings(temperature: float = 2.0, hard_weight: float = 0.5) -> Distillation:
    return Distillation(name="distillation", temperature=temperature, hard_weight=hard_weight)


def teacher(**inputs: torch.Tensor) -> torch.Tensor:
    return tiny.llama(1)(**inputs).logits


def test_against_a_value_by_hand() -> None:
    """One prediction of two classes: teacher 4:1, student 1:1; at temperature 2 the teacher is 2:1.

    KL = 2/3 ln(4/3) + 1/3 ln(2/3), times 4, times 3/4; and -ln(1/2) times 1/4.
    """

    def student(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(1, 2, 2))

    def wise(**_: Any) -> torch.Tensor:
        return torch.tensor([[[math.log(4), 0.0], [0.0, 0.0]]])

    loss, scored = loss_of(settings(2.0, 0.25), wise)(student, {"input_ids": torch.tensor([[0, 1]])})
    soft = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert float(loss) == pytest.approx(0.75 * 4 * soft + 0.25 * math.log(2), rel=1e-5)
    assert int(scored) == 1


def batch() -> dict[str, torch.Tensor]:
    labels = tiny.ids(5, 12)
    found = {"input_ids": labels, "labels": labels.clone()}
    found["labels"][1, 4:] = -100
    return found


def test_all_hard_is_causal_language_modelling() -> None:
    student, found = tiny.llama(0), batch()
    with torch.no_grad():
        loss, scored = loss_of(settings(hard_weight=1.0), teacher)(student, found)
        expected, number = TABLE["clm"].loss(student, found)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6) and int(scored) == int(number)
    assert int(scored) == TABLE["distillation"].scored(tiny.numpy(found))


def test_a_student_that_knows_it_all_learns_nothing_from_its_teacher() -> None:
    student = tiny.llama(1)
    loss, _ = loss_of(settings(hard_weight=0.0), teacher)(student, batch())
    assert float(loss) == pytest.approx(0.0, abs=1e-4)
    other, _ = loss_of(settings(hard_weight=0.0), teacher)(tiny.llama(0), batch())
    assert float(other) > 1e-2


def test_nothing_flows_into_the_teacher() -> None:
    wise, student = tiny.llama(1), tiny.llama(0)
    loss, _ = loss_of(settings(), lambda **inputs: wise(**inputs).logits)(student, batch())
    loss.backward()
    assert all(parameter.grad is None for parameter in wise.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_the_gradient_keeps_its_size_at_high_temperature() -> None:
    """In the limit T^2 KL is half the squared distance of centred logits by classes (Hinton et al., equation 4)."""
    drawn = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(1, 2, 9, generator=drawn), torch.randn(1, 2, 9, generator=drawn)
    loss, _ = loss_of(settings(50.0, 0.0), lambda **_: wanted)(
        lambda **_: SimpleNamespace(logits=logits), {"input_ids": torch.tensor([[0, 1]])}
    )
    gap = (logits - wanted)[0, 0]
    assert float(loss) == pytest.approx(float((gap - gap.mean()).square().sum() / (2 * 9)), rel=3e-2)


def test_a_split_batch_gives_the_same_sums_and_documents_stay_apart() -> None:
    found = batch()
    found["position_ids"] = torch.cat([torch.arange(5), torch.arange(7)]).int().expand(5, 12)
    tiny.split_alike(loss_of(settings(), teacher), tiny.llama(0), found)
    _, scored = loss_of(settings(), teacher)(tiny.llama(0), found)
    assert int(scored) == TABLE["distillation"].scored(tiny.numpy(found)) == 4 * 10 + 3


def test_it_needs_a_teacher() -> None:
    with pytest.raises(InputError, match="needs a teacher"):
        loss_of(settings())
