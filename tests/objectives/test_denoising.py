"""Denoising against Transformers' own losses, for both kinds of encoder-decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manta.objectives import TABLE
from tests.objectives import tiny

loss_of, scored_of = TABLE["denoising"][:2]


def batch() -> dict[str, torch.Tensor]:
    labels = tiny.ids(5, 9, seed=2)
    labels[1, 5:] = -100
    labels[3, 8:] = -100
    return {"input_ids": tiny.ids(5, 14), "labels": labels}


def test_against_a_value_by_hand() -> None:
    """p = 1/4 and 2/3, the third label is padding; the decoder reads what the model makes of the labels."""
    seen = {}

    class Fixed:
        def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
            return labels + 1000

        def __call__(self, **inputs: Any) -> SimpleNamespace:
            seen.update(inputs)
            logits = [[0.0, 0.0, math.log(2)], [math.log(4), math.log(2), -1e4], [7.0, 0.0, 0.0]]
            return SimpleNamespace(logits=torch.tensor([logits]))

    labels = torch.tensor([[0, 0, -100]])
    loss, scored = loss_of(Fixed(), {"input_ids": torch.tensor([[5, 6]]), "labels": labels})
    assert float(loss) == pytest.approx(math.log(4) + math.log(3 / 2), rel=1e-6)
    assert int(scored) == 2 == scored_of({"labels": labels.numpy()})
    assert torch.equal(seen["decoder_input_ids"], labels + 1000) and "labels" not in seen


@pytest.mark.parametrize("make", [tiny.t5, tiny.bart])
def test_equals_transformers(make: Callable[[], Any]) -> None:
    model, found = make(), batch()
    found["attention_mask"] = torch.ones_like(found["input_ids"])
    found["attention_mask"][2, 10:] = 0
    with torch.no_grad():
        loss, scored = loss_of(model, found)
        theirs = model(**{name: values.long() for name, values in found.items()}).loss
    assert float(loss / scored) == pytest.approx(float(theirs), rel=1e-6)
    assert int(scored) == 5 * 9 - 4 - 1 == scored_of(tiny.numpy(found))


@pytest.mark.parametrize("make", [tiny.t5, tiny.bart])
def test_a_split_batch_gives_the_same_sums(make: Callable[[], Any]) -> None:
    tiny.split_alike(loss_of, make(), batch())


@pytest.mark.parametrize("make", [tiny.t5, tiny.bart])
def test_padding_is_not_seen(make: Callable[[], Any]) -> None:
    """What stands in the encoder's padding changes nothing."""
    model, found = make(), batch()
    found["attention_mask"] = (torch.arange(14) < 10).int().expand(5, 14)
    other = found | {"input_ids": torch.cat([found["input_ids"][:, :10], tiny.ids(5, 4, seed=9)], dim=1)}
    with torch.no_grad():
        assert float(loss_of(model, found)[0]) == pytest.approx(float(loss_of(model, other)[0]), rel=1e-6)
