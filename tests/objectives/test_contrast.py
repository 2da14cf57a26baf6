"""Learning by contrast: by plain loops over groups, with what belongs together twice left out; the same however spread."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manta.objectives import attach, loss_of
from manta.objectives.contrast import contrast, contrast_scored, settled, vectors
from manta.sections.objective import Contrast
from tests.objectives import tiny

ROWS, SEQ, GROUP, TEMPERATURE = 6, 5, 3, 0.2


class Table(torch.nn.Module):
    """An encoder whose state of a place is its token's own."""

    def __init__(self) -> None:
        super().__init__()
        self.states = torch.nn.Parameter(torch.randn(tiny.VOCAB, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        del attention_mask
        return SimpleNamespace(last_hidden_state=self.states[input_ids])


def batch_of(negatives: bool, rows: int = ROWS) -> dict[str, torch.Tensor]:
    batch = {"labels": torch.zeros(rows, dtype=torch.int32)}
    for number, prefix in enumerate(("", "positive_", "negative_") if negatives else ("", "positive_")):
        lengths = torch.arange(rows)[:, None] % 3 + 2 + number % 2
        mask = (torch.arange(SEQ) < lengths).int()
        ids = tiny.ids(rows, SEQ, seed=10 + number)
        batch |= {f"{prefix}input_ids": ids * mask + tiny.PAD * (1 - mask), f"{prefix}attention_mask": mask}
    return batch


def again(batch: dict[str, torch.Tensor], prefix: str, row: int, other: str, source: int) -> None:
    """Let a text of one row be a text of another."""
    for name in ("input_ids", "attention_mask"):
        batch[prefix + name][row] = batch[other + name][source]


def unit(states: list[list[float]], ids: list[int], mask: list[int]) -> list[float]:
    seen = [states[number] for number, there in zip(ids, mask, strict=True) if there]
    mean = [sum(column) / len(seen) for column in zip(*seen, strict=True)]
    length = math.sqrt(sum(value * value for value in mean))
    return [value / length for value in mean]


def plain(states: list[list[float]], batch: dict[str, torch.Tensor]) -> list[float]:
    """The loss of each scored row, in plain Python."""
    listed = {name: values.tolist() for name, values in batch.items()}
    sides = [prefix for prefix in ("", "positive_", "negative_") if f"{prefix}input_ids" in batch]

    def words(prefix: str, row: int) -> tuple[int, ...]:
        ids, mask = listed[f"{prefix}input_ids"][row], listed[f"{prefix}attention_mask"][row]
        return tuple(number for number, there in zip(ids, mask, strict=True) if there)

    def vector(prefix: str, row: int) -> list[float]:
        return unit(states, listed[f"{prefix}input_ids"][row], listed[f"{prefix}attention_mask"][row])

    found = []
    for row in range(len(listed["labels"])):
        if listed["labels"][row] == -100:
            continue
        first = row // GROUP * GROUP
        terms, own = [], 0.0
        for prefix in sides[1:]:
            for other in range(first, first + GROUP):
                near = sum(a * b for a, b in zip(vector("", row), vector(prefix, other), strict=True)) / TEMPERATURE
                if prefix == "positive_" and other == row:
                    own = near
                again_mine = prefix == "positive_" and words("", other) == words("", row)
                same = words(prefix, other) == words("positive_", row)
                if (prefix, other) != ("positive_", row) and (same or again_mine or listed["labels"][other] == -100):
                    continue
                terms.append(math.exp(near))
        found.append(math.log(sum(terms)) - own)
    return found


def awkward(negatives: bool) -> dict[str, torch.Tensor]:
    """A positive that stands twice in a group, a text that does, a negative that is another's positive, a row unscored."""
    batch = batch_of(negatives)
    again(batch, "positive_", 1, "positive_", 0)
    again(batch, "", 4, "", 3)
    if negatives:
        again(batch, "negative_", 2, "positive_", 0)
    batch["labels"][5] = -100
    return batch


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize("make", [batch_of, awkward])
def test_the_loss_is_that_of_plain_loops_over_groups(make: Any, negatives: bool) -> None:
    model, batch = Table(), make(negatives)
    sums, counts = contrast(model, batch, GROUP, TEMPERATURE)
    wanted = plain(model.states.tolist(), batch)
    assert float(sums.detach()) == pytest.approx(sum(wanted), rel=1e-5)
    assert int(counts) == len(wanted) == contrast_scored(tiny.numpy(batch))


def test_what_is_masked_matters() -> None:
    """The same batch without repeated texts costs more: the test above would not see masks that mask nothing."""
    model = Table()
    states = model.states.tolist()
    batch = awkward(True)
    everything = {**batch, "labels": torch.zeros_like(batch["labels"])}
    assert sum(plain(states, everything)) > sum(plain(states, batch))
    assert len(plain(states, batch)) == ROWS - 1


def test_groups_are_computed_alike_together_and_apart() -> None:
    model, batch = tiny.bert("BertModel"), batch_of(True)
    loss = lambda some: contrast(model, some, GROUP, TEMPERATURE)  # noqa: E731
    model.zero_grad()
    sums, counts = loss(batch)
    sums.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = torch.zeros(())
    for first in range(0, ROWS, GROUP):
        part, number = loss({name: values[first : first + GROUP] for name, values in batch.items()})
        part.backward()
        total, counts = total + part.detach(), counts - number
    assert int(counts) == 0
    torch.testing.assert_close(total, sums.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-5)


def test_vectors_do_not_see_what_fills_up() -> None:
    model, batch = tiny.bert("BertModel"), batch_of(False)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = vectors(model, given)
        for row in range(ROWS):
            length = int(given["attention_mask"][row].sum())
            states = model(input_ids=given["input_ids"][row : row + 1, :length].long()).last_hidden_state[0]
            wanted = torch.nn.functional.normalize(states.mean(0), dim=0)
            torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-5)


def test_an_unused_layer_stays_as_it_is() -> None:
    model = attach(Contrast(name="contrast"), tiny.bert("BertModel"), 0)
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == {"pooler.dense.weight", "pooler.dense.bias"}
    contrast(model, batch_of(True), GROUP, TEMPERATURE)[0].backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if name not in still)
    assert settled(model) is model


def test_settings_reach_the_loss_of_contrast() -> None:
    found = loss_of(Contrast(name="contrast", group=4, temperature=0.1))
    assert found.keywords == {"group": 4, "temperature": 0.1}
