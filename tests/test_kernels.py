"""Kernels in the place of torch's: the same products, fair masks, and torch's own wherever they do not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from manta import kernels

MANY = 400_000


@pytest.fixture(autouse=True)
def hastened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(kernels, "is_intel", lambda: False)
    library = kernels.hasten()
    yield library
    library._destroy()


# --- products of matrices --------------------------------------------------------------------------------------------


def by_onednn(run: Callable[[], Any]) -> bool:
    """Whether something is multiplied by oneDNN's linear layer."""
    with torch.profiler.profile() as seen:
        run()
    return any(event.key == "mkldnn::_linear_pointwise" for event in seen.key_averages())


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(128, 96, 160), (1, 1024, 2048), (401, 383, 1537), (4096, 300, 1)]
)
def test_large_products_are_onednns_and_right(rows: int, inner: int, columns: int, turned: tuple[bool, bool]) -> None:
    one = normal(inner, rows).t() if turned[0] else normal(rows, inner)
    other = normal(columns, inner).t() if turned[1] else normal(inner, columns)
    assert by_onednn(lambda: one @ other)
    torch.testing.assert_close((one @ other).double(), one.double() @ other.double(), rtol=1e-4, atol=1e-3)
    added = normal(columns)
    assert by_onednn(lambda: torch.addmm(added, one, other))
    wanted = one.double() @ other.double() + added.double()
    torch.testing.assert_close(torch.addmm(added, one, other).double(), wanted, rtol=1e-4, atol=1e-3)


def test_slices_of_larger_tensors() -> None:
    whole = normal(400, 800)
    one, other = whole[::2, 100:300], whole[50:250, 3::3]
    torch.testing.assert_close((one @ other).double(), one.double() @ other.double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_learns_the_same(bias: bool) -> None:
    layer, given = torch.nn.Linear(192, 256, bias=bias), normal(4, 32, 192).requires_grad_()
    exact, exactly_given = copy.deepcopy(layer).double(), given.detach().double().requires_grad_()
    assert by_onednn(lambda: layer(given).square().sum().backward())
    exact(exactly_given).square().sum().backward()
    pairs = [(given, exactly_given), *zip(layer.parameters(), exact.parameters(), strict=True)]
    for ours, theirs in pairs:
        assert ours.grad is not None and theirs.grad is not None and ours.grad.is_contiguous()
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "product",
    [
        lambda: normal(8, 8) @ normal(8, 8),
        lambda: normal(128, 128, dtype=torch.float64) @ normal(128, 128, dtype=torch.float64),
        lambda: normal(128, 128).bfloat16() @ normal(128, 128).bfloat16(),
        lambda: torch.addmm(normal(128, 128), normal(128, 128), normal(128, 128)),
        lambda: torch.addmm(normal(1), normal(128, 128), normal(128, 128)),
        lambda: torch.addmm(normal(128), normal(128, 128), normal(128, 128), beta=2),
        lambda: torch.addmm(normal(128), normal(128, 128), normal(128, 128), alpha=0.5),
        lambda: normal(128, 0) @ normal(0, 128),
    ],
    ids=["small", "float64", "bfloat16", "added matrix", "added number", "beta", "alpha", "empty"],
)
def test_what_does_not_fit_stays_torchs(product: Callable[[], torch.Tensor], hastened: Any) -> None:
    assert not by_onednn(product)
    found = product()
    hastened._destroy()
    assert torch.equal(found, product())


def test_what_is_no_product_is_refused_by_torch() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        normal(256, 200) @ normal(100, 256)
    with pytest.raises(RuntimeError, match="same dtype"):
        torch.mm(normal(256, 200), normal(200, 256, dtype=torch.float64))


def test_nothing_is_replaced_on_intels_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_intel", lambda: True)
    registered: list[str] = []
    monkeypatch.setattr(torch.library.Library, "impl", lambda self, name, *_, **__: registered.append(name))
    kernels.hasten()
    assert registered == []


# --- masks of dropout ------------------------------------------------------------------------------------------------


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
