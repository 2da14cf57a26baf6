"""Distillation against values by hand, its two ends, and the gradient's size whatever the temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manta.errors import InputError
from manta.objectives import TABLE, attach, detach, held_out, loss_of, stored
from manta.objectives.distillation import matching
from manta.sections.objective import Distillation
from tests.objectives import tiny


class Says(tiny.Told):
    """A model that answers with the same logits whatever it reads."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.output(self.logits))


def settings(temperature: float = 2.0, hard_weight: float = 0.5, **given: Any) -> Distillation:
    known = {"name": "distillation", "teacher": "t", "teacher_mode": "live", **given}
    return Distillation.model_validate({"temperature": temperature, "hard_weight": hard_weight, **known})


def by_live(temperature: float = 2.0, hard_weight: float = 0.5, **given: Any) -> Callable[..., Any]:
    """The loss under a teacher at hand."""
    return loss_of(settings(temperature, hard_weight, **given), tiny.llama(1).requires_grad_(False))


def by_stored(temperature: float, hard_weight: float) -> Callable[..., Any]:
    return loss_of(settings(temperature, hard_weight, teacher_mode="stored"))


def batch() -> dict[str, torch.Tensor]:
    labels = tiny.ids(5, 12)
    found = {"input_ids": labels, "labels": labels.clone()}
    found["labels"][1, 4:] = -100
    return found


def told(
    found: dict[str, torch.Tensor], teacher: Any, top_k: int, temperature: float, vocab: int = tiny.VOCAB
) -> dict[str, torch.Tensor]:
    """The batch with what is stored of a teacher."""
    with torch.no_grad():
        logits = teacher(input_ids=found["input_ids"].long()).logits.flatten(0, 1)
    packed = stored.pack(*stored.likeliest(logits, top_k, temperature, vocab), vocab)
    return found | {"teacher": packed.reshape(len(found["input_ids"]), -1)}


# --- all tokens ------------------------------------------------------------------------------------------------------


def test_against_a_value_by_hand() -> None:
    """One prediction of two classes: teacher 4:1, student 1:1; at temperature 2 the teacher is 2:1.

    KL = 2/3 ln(4/3) + 1/3 ln(2/3), times 4, times 3/4; and -ln(1/2) times 1/4.
    """
    wise = Says(torch.tensor([[[math.log(4), 0.0], [0.0, 0.0]]]))
    student = Says(torch.zeros(1, 2, 2))
    loss, scored = loss_of(settings(2.0, 0.25), wise)(student, {"input_ids": torch.tensor([[0, 1]])})
    soft = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert float(loss) == pytest.approx(0.75 * 4 * soft + 0.25 * math.log(2), rel=1e-5)
    assert int(scored) == 1


def test_all_hard_is_causal_language_modelling() -> None:
    student, found = tiny.llama(0), batch()
    with torch.no_grad():
        loss, scored = by_live(hard_weight=1.0)(student, found)
        expected, number = TABLE["clm"].loss(student, found)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6) and int(scored) == int(number)
    assert int(scored) == TABLE["distillation"].scored(tiny.numpy(found))
    assert loss_of(held_out(settings()))(student, found)[0] == expected, "held-out rows are judged by the text alone"


def test_a_student_that_knows_it_all_learns_nothing_from_its_teacher() -> None:
    student = tiny.llama(1)
    loss, _ = by_live(hard_weight=0.0)(student, batch())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-4)
    assert max(float(p.grad.abs().max()) for p in student.parameters()) < 1e-5
    other, _ = by_live(hard_weight=0.0)(tiny.llama(0), batch())
    assert float(other) > 1e-2


def test_nothing_flows_into_the_teacher() -> None:
    wise, student = tiny.llama(1), tiny.llama(0)
    loss, _ = loss_of(settings(hidden={}), wise)(student, batch())
    loss.backward()
    assert all(parameter.grad is None for parameter in wise.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_the_gradient_is_that_of_plain_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worked out with the loss, two rows at a time, scaled by what comes back; in bf16 as in fp32."""
    from manta.objectives import fused

    monkeypatch.setitem(fused.AT_ONCE, "cpu", 2 * 7)
    draw = torch.Generator().manual_seed(0)
    wanted = torch.randn(1, 6, 7, generator=draw)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        logits = torch.randn(1, 6, 7, generator=draw).to(dtype).requires_grad_()
        ids = {"input_ids": torch.arange(6)[None]}
        loss, _ = loss_of(settings(3.0, 0.3), Says(wanted))(Says(logits), ids)
        (found,) = torch.autograd.grad(loss * 5.0, logits)
        q, p = (torch.log_softmax(given.float()[0, :5] / 3.0, -1) for given in (logits, wanted))
        hard = torch.nn.functional.cross_entropy(logits.float()[0, :5], torch.arange(1, 6), reduction="sum")
        plain = 0.7 * 9.0 * (p.exp() * (p - q)).sum() + 0.3 * hard
        assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
        (expected,) = torch.autograd.grad(plain * 5.0, logits)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_gradient_keeps_its_size_at_high_temperature() -> None:
    """In the limit T^2 KL is half the squared distance of centred logits by classes (Hinton et al., equation 4)."""
    drawn = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(1, 2, 9, generator=drawn), torch.randn(1, 2, 9, generator=drawn)
    loss, _ = loss_of(settings(50.0, 0.0), Says(wanted))(Says(logits), {"input_ids": torch.tensor([[0, 1]])})
    gap = (logits - wanted)[0, 0]
    assert float(loss) == pytest.approx(float((gap - gap.mean()).square().sum() / (2 * 9)), rel=3e-2)


def test_a_split_batch_gives_the_same_sums_and_documents_stay_apart() -> None:
    found = batch()
    found["position_ids"] = torch.cat([torch.arange(5), torch.arange(7)]).int().expand(5, 12)
    tiny.split_alike(by_live(hidden={"measure": "mse"}), tiny.llama(0), found)
    _, scored = by_live()(tiny.llama(0), found)
    assert int(scored) == TABLE["distillation"].scored(tiny.numpy(found)) == 4 * 10 + 3


def test_a_teacher_is_there_where_it_is_wanted_and_nowhere_else() -> None:
    with pytest.raises(InputError, match=r"teacher_mode = 'live' needs a teacher at hand, and there is none"):
        loss_of(settings())
    with pytest.raises(InputError, match=r"teacher_mode = 'stored' needs no teacher at hand"):
        loss_of(settings(teacher_mode="stored"), tiny.llama(1))


# --- the likeliest tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [tiny.VOCAB, 2**17])
@pytest.mark.parametrize("top_k", [1, 2, 5, 8])
def test_what_is_packed_comes_back(vocab: int, top_k: int) -> None:
    logits = 5 * torch.randn(9, vocab, generator=torch.Generator().manual_seed(0))
    ids, log_p, rest = stored.likeliest(logits, top_k, 1.5, vocab)
    packed = stored.pack(ids, log_p, rest, vocab)
    assert packed.dtype == torch.int32 and packed.shape == (9, stored.words(top_k, vocab))
    again, values, others = stored.unpack(packed, vocab)
    assert torch.equal(again, ids)
    torch.testing.assert_close(values, log_p, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(others, rest, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(values.exp().sum(1) + others.exp(), torch.ones(9), rtol=1e-5, atol=1e-5)
    expected = torch.softmax(logits / 1.5, -1)
    torch.testing.assert_close(log_p.exp(), expected.sort(-1, descending=True).values[:, :top_k])


def test_ids_of_the_upper_half_of_sixteen_bits_are_not_negative() -> None:
    logits = torch.zeros(1, 2**16)
    logits[0, 65_535], logits[0, 40_000] = 9.0, 8.0
    ids, *_ = stored.unpack(stored.pack(*stored.likeliest(logits, 2, 1.0, 2**16), 2**16), 2**16)
    assert ids.tolist() == [[65_535, 40_000]]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_tokens_stored_are_a_teacher_at_hand(temperature: float) -> None:
    """Loss and gradients, to the rounding of float16."""
    found, ends = batch(), []
    for loss, rows in (
        (by_live(temperature, 0.2), found),
        (by_stored(temperature, 0.2), told(found, tiny.llama(1), 100, temperature)),
    ):
        student = tiny.llama(0)
        sums, scored = loss(student, rows)
        sums.backward()
        ends.append((float(sums), int(scored), [p.grad for p in student.parameters()]))
    (live, number, gradients), (kept, again, others) = ends
    assert kept == pytest.approx(live, rel=1e-4) and number == again
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, rtol=2e-2, atol=2e-3)


def test_the_rest_is_one_outcome() -> None:
    """Teacher 4:2:1:1 of which two are stored, student 1:1:1:1: KL of (1/2, 1/4, 1/4) from (1/4, 1/4, 1/2)."""
    wise = Says(torch.tensor([[[4.0, 2.0, 1.0, 1.0]]]).log().expand(1, 2, 4))
    found = told({"input_ids": torch.tensor([[0, 1]])}, wise, 2, 1.0, vocab=4)
    loss, _ = by_stored(1.0, 0.0)(Says(torch.zeros(1, 2, 4)), found)
    assert float(loss) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5), rel=1e-3)


def test_fewer_tokens_tell_less_and_never_too_much() -> None:
    """Merging outcomes cannot raise a divergence; what agrees with the teacher stays the best of all students."""
    found = batch()
    sums = [
        float(by_stored(1.0, 0.0)(tiny.llama(0), told(found, tiny.llama(1), top_k, 1.0))[0]) for top_k in (1, 4, 16, 61)
    ]
    assert all(less < more for less, more in pairwise(sums))
    assert sums[-1] == pytest.approx(float(by_live(1.0, 0.0)(tiny.llama(0), found)[0]), rel=1e-3)
    student = tiny.llama(1)
    loss, scored = by_stored(1.0, 0.0)(student, told(found, tiny.llama(1), 4, 1.0))
    loss.backward()
    assert abs(float(loss)) / int(scored) < 1e-5
    assert max(float(p.grad.abs().max()) for p in student.parameters()) < 2e-2, "but for float16"


def test_vocabularies_are_padded_each_in_its_way() -> None:
    """What the teacher alone has is no token; what the student alone has, the teacher finds impossible."""
    draw = torch.Generator().manual_seed(0)
    ids, wide, narrow = {"input_ids": torch.tensor([[0, 1]])}, torch.randn(1, 2, 9, generator=draw), None
    narrow = torch.randn(1, 2, 6, generator=draw)
    for wise, mine in ((wide, narrow), (narrow, wide)):
        p = torch.softmax(wise[0, 0, : mine.shape[2]], -1)
        q = torch.softmax(mine[0, 0], -1)[: len(p)]
        expected = float((p * (p / q).log()).sum())
        live, _ = loss_of(settings(1.0, 0.0), Says(wise))(Says(mine), ids)
        kept, _ = by_stored(1.0, 0.0)(Says(mine), told(ids, Says(wise), 9, 1.0, vocab=mine.shape[2]))
        assert float(live) == pytest.approx(expected, rel=1e-5)
        assert float(kept) == pytest.approx(expected, rel=2e-3, abs=2e-3)


# --- states on the way -----------------------------------------------------------------------------------------------


def test_states_are_compared_at_the_same_share_of_the_depth() -> None:
    assert matching(2, 4) == [(0, 0), (1, 2), (2, 4)]
    assert matching(3, 4) == [(0, 0), (1, 1), (2, 3), (3, 4)]
    assert matching(4, 4) == [(number, number) for number in range(5)]


@pytest.mark.parametrize("measure", ["mse", "cosine"])
def test_states_by_hand(measure: str) -> None:
    found, student, wise = batch(), tiny.llama(0), tiny.llama(1)
    weighed = loss_of(settings(hidden={"weight": 3.0, "measure": measure}), wise)(student, found)
    bare = loss_of(settings(), wise)(student, found)
    inputs = {"input_ids": found["input_ids"].long(), "output_hidden_states": True}
    expected, scored = 0.0, (found["labels"] != -100)[:, 1:]
    for mine, other in zip(student(**inputs).hidden_states, wise(**inputs).hidden_states, strict=True):
        one, two = mine[:, :-1][scored], other[:, :-1][scored]
        far = (one - two).square().mean(-1) if measure == "mse" else 1 - torch.cosine_similarity(one, two, dim=-1)
        expected += float(far.sum()) / 3
    assert float(weighed[0] - bare[0]) == pytest.approx(3.0 * expected, rel=1e-4)


def test_a_student_of_another_width_is_taught_through_a_layer_that_does_not_stay() -> None:
    objective, found, student = settings(hidden={}), batch(), tiny.llama(0)
    assert attach(objective, student, 0, 32) is student and attach(objective, student, 0) is student
    wide = tiny.llama(1, hidden_size=48)
    both = attach(objective, student, 7, 48)
    assert torch.equal(attach(objective, student, 7, 48).projection.weight, both.projection.weight)
    loss, _ = loss_of(objective, wide)(both, found)
    loss.backward()
    assert float(both.projection.weight.grad.abs().max()) > 0
    assert both(input_ids=found["input_ids"].long()).logits.shape == (5, 12, tiny.VOCAB)
    model, weights = detach(objective, both, both.state_dict())
    assert model is student and set(weights) == set(student.state_dict())
    assert detach(objective, student, weights) == (student, weights)
