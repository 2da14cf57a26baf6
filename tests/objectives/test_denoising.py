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

    class Fixed(tiny.Told):
        def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
            return labels + 1000

        def forward(self, **inputs: Any) -> SimpleNamespace:
            seen.update(inputs)
            logits = [[0.0, 0.0, math.log(2)], [math.log(4), math.log(2), -1e4], [7.0, 0.0, 0.0]]
            return SimpleNamespace(logits=self.output(torch.tensor([logits])))

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
def test_what_fills_answers_up_is_not_worked_on(make: Callable[[], Any]) -> None:
    """Answers of at most nine tokens, filled up to forty: the decoder reads sixteen, the output layer what is scored."""
    model, found = make(), batch()
    longer = found | {"labels": torch.nn.functional.pad(found["labels"], (0, 31), value=-100)}
    seen = []
    decoder = model.get_decoder()
    decoder.register_forward_hook(lambda _, __, output: seen.append(tuple(output[0].shape[:2])))
    model.get_output_embeddings().register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape)))
    loss, scored = loss_of(model, longer)
    loss.backward()
    assert seen == [(5, 16), (5 * 9 - 4 - 1, tiny.VOCAB)]
    mine = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    theirs, _ = loss_of(model, found)
    theirs.backward()
    assert int(scored) == 40 and float(loss) == pytest.approx(float(theirs), rel=1e-6)
    for one, parameter in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-5)


def test_answers_of_nothing_cost_nothing() -> None:
    model, found = tiny.t5(), batch()
    loss, scored = loss_of(model, found | {"labels": torch.full_like(found["labels"], -100)})
    assert float(loss.detach()) == int(scored) == 0


@pytest.mark.parametrize("make", [tiny.t5, tiny.bart])
def test_padding_is_not_seen(make: Callable[[], Any]) -> None:
    """What stands in the encoder's padding changes nothing."""
    model, found = make(), batch()
    found["attention_mask"] = (torch.arange(14) < 10).int().expand(5, 14)
    other = found | {"input_ids": torch.cat([found["input_ids"][:, :10], tiny.ids(5, 4, seed=9)], dim=1)}
    with torch.no_grad():
        assert float(loss_of(model, found)[0]) == pytest.approx(float(loss_of(model, other)[0]), rel=1e-6)
