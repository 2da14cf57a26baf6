"""Dropout's masks: fair, repeated by the seed and by what is recomputed, the same on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from manta.train import dropout

MANY = 400_000


@pytest.fixture(autouse=True)
def hastened() -> Iterator[None]:
    library = dropout.hasten()
    yield
    library._destroy()


def mask(p: float, seed: int = 0, entries: int = MANY) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.empty(entries).bernoulli_(p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.999])
def test_as_many_are_ones_as_the_probability_says(p: float) -> None:
    found = mask(p)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert abs(float(found.mean()) - p) < 5 * (p * (1 - p) / MANY) ** 0.5


def test_neighbours_and_the_masks_of_other_seeds_know_nothing_of_one_another() -> None:
    first, second = mask(0.5), mask(0.5, seed=1)
    for other in (first.roll(1), first.roll(4), second):
        assert abs(float(((first - 0.5) * (other - 0.5)).mean()) * 4) < 5 / MANY**0.5


@pytest.mark.parametrize(("p", "value"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_certain_and_the_impossible(p: float, value: float) -> None:
    assert bool((mask(p, entries=70_000) == value).all())


def test_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mask(1.5)


def test_it_is_torchs_dropout_that_takes_them() -> None:
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(torch.ones(MANY), 0.1, training=True) > 0
    assert torch.equal(kept.float(), mask(0.9))


@pytest.mark.parametrize("count", [0, 1, 3, 5, 4097])
def test_any_number_of_entries(count: int) -> None:
    assert mask(0.5, entries=count).shape == (count,)


def test_tensors_of_any_stride_and_dtype() -> None:
    torch.manual_seed(0)
    turned = torch.empty(6, 4, dtype=torch.bfloat16).t().bernoulli_(0.5)
    assert torch.equal(turned.float(), mask(0.5, entries=24).view(4, 6))


def test_the_seed_repeats_them_and_each_call_draws_others() -> None:
    torch.manual_seed(7)
    first, then = torch.empty(100).bernoulli_(0.5), torch.empty(100).bernoulli_(0.5)
    assert not torch.equal(first, then)
    torch.manual_seed(7)
    assert torch.equal(torch.empty(100).bernoulli_(0.5), first)


def test_a_generator_of_its_own() -> None:
    own = torch.Generator().manual_seed(3)
    before = torch.get_rng_state()
    first = torch.empty(100).bernoulli_(0.5, generator=own)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.empty(100).bernoulli_(0.5, generator=own.manual_seed(3)), first)


def test_what_is_recomputed_drops_the_same() -> None:
    def loss(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(values, 0.5, training=True).square().sum()

    gradients = []
    for run in (loss, lambda values: checkpoint(loss, values, use_reentrant=False)):
        torch.manual_seed(0)
        values = torch.arange(1.0, 1001.0, requires_grad=True)
        run(values).backward()
        gradients.append(values.grad)
    assert torch.equal(*gradients)


def test_the_number_of_threads_changes_nothing() -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(mask(0.3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
