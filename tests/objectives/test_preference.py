"""The loss of preferences: by plain loops, its gradient by its formula, and the same however the pairs are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manta.objectives import loss_of, mean, scored_of
from manta.objectives.preference import answers, preference, preference_scored
from manta.sections.objective import Preference
from tests.objectives import tiny

ROWS, SEQ, VOCAB = 5, 9, 7
BETA, SMOOTHING = 0.3, 0.1


class Table(tiny.Told):
    """A model whose logits of a place are those of its token: what is likely can be read off."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache
        return SimpleNamespace(logits=self.output(self.logits[input_ids]))


def bits(values: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(torch.int32)


def batch_of(vocab: int = VOCAB, seed: int = 1) -> dict[str, torch.Tensor]:
    """Pairs of which the answers begin at the fourth token and have different lengths; the third pair is not scored."""
    draw = torch.Generator().manual_seed(seed)
    batch: dict[str, torch.Tensor] = {}
    for prefix, first in (("", 5), ("rejected_", 6)):
        ids = torch.randint(0, vocab, (ROWS, SEQ), generator=draw, dtype=torch.int32)
        places = torch.arange(SEQ)
        ends = first + torch.arange(ROWS)[:, None] % 3
        labels = ids.masked_fill((places < 3) | (places >= ends), -100)
        labels[2] = -100
        batch |= {f"{prefix}input_ids": ids, f"{prefix}labels": labels}
    draws = torch.randn(ROWS, 2, generator=draw)
    return batch | {"reference": bits((draws - 8).tolist())}


def log_p(table: list[list[float]], ids: list[int], labels: list[int]) -> float:
    """The sum over labelled tokens of log softmax, in plain Python."""
    total = 0.0
    for before, label in zip(ids, labels[1:], strict=False):
        if label != -100:
            row = table[before]
            total += row[label] - math.log(sum(math.exp(value) for value in row))
    return total


def plain(table: list[list[float]], batch: dict[str, torch.Tensor]) -> list[tuple[float, float]]:
    """(loss, margin) of each scored pair."""
    listed = {name: values.tolist() for name, values in batch.items()}
    reference = batch["reference"].view(torch.float32).tolist()
    found = []
    for row in range(ROWS):
        if row == 2:
            continue
        chosen = log_p(table, listed["input_ids"][row], listed["labels"][row]) - reference[row][0]
        rejected = log_p(table, listed["rejected_input_ids"][row], listed["rejected_labels"][row]) - reference[row][1]
        margin = BETA * (chosen - rejected)
        right, wrong = 1 / (1 + math.exp(-margin)), 1 / (1 + math.exp(margin))
        found.append((-(1 - SMOOTHING) * math.log(right) - SMOOTHING * math.log(wrong), margin))
    return found


def test_the_loss_is_that_of_plain_loops() -> None:
    model, batch = Table(), batch_of()
    kept: list[Any] = []
    sums, counts = preference(model, batch, BETA, SMOOTHING, keep=kept)
    wanted = plain(model.logits.tolist(), batch)
    assert sums.dtype == torch.float32 and counts.dtype == torch.int64
    assert float(sums.detach()) == pytest.approx(sum(loss for loss, _ in wanted), rel=1e-5)
    assert int(counts) == len(wanted) == preference_scored(tiny.numpy(batch)) == ROWS - 1
    (values,) = kept
    margins = BETA * ((values[:, 0] - values[:, 2]) - (values[:, 1] - values[:, 3]))
    assert [float(margins[row]) for row in (0, 1, 3, 4)] == pytest.approx([margin for _, margin in wanted], rel=1e-4)


def test_the_gradient_is_that_of_the_formula() -> None:
    """d loss / d theta = beta (e - s(-m)) (d log p(chosen) - d log p(rejected)), summed over pairs (DPO, equation 8)."""
    model, batch = Table(), batch_of()
    preference(model, batch, BETA, SMOOTHING)[0].backward()
    wanted = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    chance = torch.softmax(model.logits.detach().double(), dim=1)
    margins = iter(margin for _, margin in plain(model.logits.tolist(), batch))
    for row in (0, 1, 3, 4):
        weight = BETA * (SMOOTHING - 1 / (1 + math.exp(next(margins))))
        for prefix, sign in (("", 1.0), ("rejected_", -1.0)):
            ids, labels = batch[f"{prefix}input_ids"][row].tolist(), batch[f"{prefix}labels"][row].tolist()
            for before, label in zip(ids, labels[1:], strict=False):
                if label != -100:
                    wanted[before] -= sign * weight * chance[before]
                    wanted[before, label] += sign * weight
    assert model.logits.grad is not None
    torch.testing.assert_close(model.logits.grad.double(), wanted, rtol=1e-4, atol=1e-6)


def test_a_model_that_is_its_own_reference_pays_ln_2_a_pair() -> None:
    model, batch = tiny.llama(), batch_of(tiny.VOCAB)
    with torch.no_grad():
        batch["reference"] = answers(model, batch).view(torch.int32)
        sums, counts = preference(model, batch)
    assert float(mean(sums, counts)) == pytest.approx(math.log(2), rel=1e-6)


def test_without_a_reference_all_answers_are_equally_likely_to_it() -> None:
    model, batch = tiny.llama(), batch_of(tiny.VOCAB)
    bare = {name: values for name, values in batch.items() if name != "reference"}
    batch["reference"] = bits([[-3.0, -3.0]] * ROWS)
    with torch.no_grad():
        assert float(preference(model, bare)[0]) == pytest.approx(float(preference(model, batch)[0]), rel=1e-5)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_log_probabilities_are_those_of_transformers(make: Any) -> None:
    """Transformers' loss is the mean of -log p over the labelled tokens."""
    model, batch = make(), batch_of(tiny.VOCAB)
    with torch.no_grad():
        found = answers(model, batch)
        for row in (0, 1, 3, 4):
            for side, prefix in enumerate(("", "rejected_")):
                ids, labels = batch[f"{prefix}input_ids"][row : row + 1], batch[f"{prefix}labels"][row : row + 1]
                theirs = model(input_ids=ids.long(), labels=labels.long()).loss
                number = int((labels[:, 1:] != -100).sum())
                assert float(found[row, side]) == pytest.approx(-float(theirs) * number, rel=1e-5)
    assert found[2].tolist() == [0.0, 0.0]


def test_spreading_the_pairs_changes_nothing() -> None:
    tiny.split_alike(lambda model, batch: preference(model, batch, BETA, SMOOTHING), tiny.llama(), batch_of(tiny.VOCAB))


def test_settings_reach_the_loss_of_preferences() -> None:
    objective = Preference(name="preference", beta=0.5, label_smoothing=0.2)
    assert loss_of(objective).keywords == {"beta": 0.5, "label_smoothing": 0.2}
    assert scored_of(objective) is preference_scored
