"""The objective of tokens and those before them: its formula, its extra layer, and what is left of it at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from manta.objectives import TABLE, attach, detach, loss_of, mean
from manta.sections.objective import Mlm, MultiMlm
from tests.objectives import tiny

SETTINGS = MultiMlm(name="multi_mlm", predecessor_weight=0.5)
LOSS = loss_of(SETTINGS)


def batch() -> dict[str, torch.Tensor]:
    found = tiny.masked()
    text = torch.where(found["labels"] == -100, found["input_ids"], found["labels"])
    before = torch.full_like(found["labels"], -100)
    wanted = found["labels"][:, 1:] != -100
    before[:, 1:][wanted] = text[:, :-1][wanted]
    before[0] = -100  # of this row no predecessor is text
    return found | {"predecessor_labels": before}


def by_formula(model: Any, found: dict[str, torch.Tensor]) -> float:
    """L as the docstring of `multi_mlm` has it, position by position."""
    inner, own, previous = model.model, [], []
    states = inner.bert(input_ids=found["input_ids"].long()).last_hidden_state
    states = inner.cls.predictions.transform(states)
    for row in range(5):
        for place in range(20):
            token, before = int(found["labels"][row, place]), int(found["predecessor_labels"][row, place])
            h = states[row, place]
            if token != -100:
                own.append(-torch.log_softmax(inner.cls.predictions.decoder(h), -1)[token])
            if before != -100:
                h = model.predecessor.weight @ h
                previous.append(-torch.log_softmax(inner.cls.predictions.decoder(h), -1)[before])
    assert own and previous and len(own) > len(previous)
    return float(sum(own) / len(own) + 0.5 * sum(previous) / len(previous))


def test_against_the_formula() -> None:
    model, found = attach(SETTINGS, tiny.bert(), seed=3), batch()
    sums, counts = LOSS(model, found)
    assert float(mean(sums, counts)) == pytest.approx(by_formula(model, found), rel=1e-5)
    assert counts.tolist() == list(TABLE["multi_mlm"].scored(tiny.numpy(found)))


def test_its_first_part_is_the_loss_of_mlm() -> None:
    model, found = attach(SETTINGS, tiny.bert(), seed=3), batch()
    sums, counts = LOSS(model, found)
    alone, scored = TABLE["mlm"].loss(tiny.bert(), found)
    assert float(sums[0]) == pytest.approx(float(alone), rel=1e-6) and int(counts[0]) == int(scored)


def test_a_split_batch_gives_the_same_sums() -> None:
    tiny.split_alike(LOSS, attach(SETTINGS, tiny.bert(), seed=3), batch())


def test_the_layer_is_drawn_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = attach(SETTINGS, tiny.bert(), seed=3).predecessor.weight
    torch.manual_seed(2)
    model = tiny.bert()
    state = torch.get_rng_state()
    assert torch.equal(attach(SETTINGS, model, seed=3).predecessor.weight, one)
    assert torch.equal(torch.get_rng_state(), state), "others' random numbers are left alone"
    assert not torch.equal(attach(SETTINGS, tiny.bert(), seed=4).predecessor.weight, one)
    assert 0.015 < float(one.std()) < 0.025


def test_the_layer_learns_and_the_output_layer_learns_from_both() -> None:
    model, found = attach(SETTINGS, tiny.bert(), seed=3), batch()
    sums, _ = LOSS(model, found)
    sums[1].backward()
    assert float(model.predecessor.weight.grad.abs().sum()) > 0
    assert float(model.model.bert.embeddings.word_embeddings.weight.grad.abs().sum()) > 0
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "predecessor.weight" in names


def test_what_is_kept_is_the_model_alone(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    model = attach(SETTINGS, tiny.bert(), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    inner, kept = detach(SETTINGS, model, weights)
    assert set(kept) == set(inner.state_dict())
    inner.save_pretrained(tmp_path, state_dict=kept)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    text = tiny.ids(2, 9).long()
    assert torch.equal(loaded(input_ids=text).logits, inner(input_ids=text).logits)


def test_a_checkpoint_holds_the_layer() -> None:
    model, other = attach(SETTINGS, tiny.bert(), seed=3), attach(SETTINGS, tiny.bert(), seed=4)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.predecessor.weight, model.predecessor.weight)


def test_other_objectives_leave_the_model_as_it_is() -> None:
    model = tiny.bert()
    plain = Mlm(name="mlm")
    assert attach(plain, model, seed=0) is model
    assert detach(plain, model, {"a": 1}) == (model, {"a": 1})
