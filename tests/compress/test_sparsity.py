"""Single weights to zero: the right ones, exactly as many as asked for, and the others as the papers' formulas have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

GIVES, READS = 6, 16


@pytest.fixture
def layer() -> tuple[Any, Any]:
    """A layer's weights (gives, reads) and the mean of x x' over tokens whose channels are alike and of many sizes."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(READS, READS, generator=generator)
    inputs = torch.randn(400, READS, generator=generator) @ mixing * torch.logspace(-1, 1, READS)
    return torch.randn(GIVES, READS, generator=generator), inputs.T @ inputs / 400


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_two_of_each_four_go(layer: tuple[Any, Any], method: str) -> None:
    from manta.compress.pruning import sparsity

    new = sparsity.METHODS[method](*layer, 0.5, "2:4")
    assert ((new.reshape(-1, 4) == 0).sum(1) == 2).all()


@pytest.mark.parametrize(("method", "by_row"), [("magnitude", False), ("wanda", True), ("sparsegpt", False)])
def test_exactly_the_share_goes(layer: tuple[Any, Any], method: str, by_row: bool) -> None:
    from manta.compress.pruning import sparsity

    gone = sparsity.METHODS[method](*layer, 0.25, "unstructured") == 0
    assert int(gone.sum()) == GIVES * READS // 4
    if by_row:
        assert (gone.sum(1) == READS // 4).all()


def test_magnitude_takes_the_smallest(layer: tuple[Any, Any]) -> None:
    from manta.compress.pruning import sparsity

    weight, gram = layer
    new = sparsity.magnitude(weight, gram, 0.5, "unstructured")
    assert float(weight[new == 0].abs().max()) < float(new[new != 0].abs().min())
    assert torch.equal(new[new != 0], weight[new != 0])


def test_wanda_weighs_by_what_is_read(layer: tuple[Any, Any]) -> None:
    from manta.compress.pruning import sparsity

    weight, gram = layer
    score = np.abs(weight.double().numpy()) * np.sqrt(np.diag(gram.double().numpy()))
    wanted = weight.numpy().copy()
    for row in range(GIVES):
        wanted[row, np.argsort(score[row])[: READS // 2]] = 0.0
    assert (sparsity.wanda(weight, gram, 0.5, "unstructured").numpy() == wanted).all()


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_sparsegpt_is_the_optimal_brain_surgeon_from_left_to_right(layer: tuple[Any, Any], pattern: str) -> None:
    """With the inverse of what is left computed anew for each column: no Cholesky factors, no blocks of columns."""
    from manta.compress.pruning import sparsity

    weight, gram = layer
    hessian = gram.double().numpy()
    hessian = hessian + sparsity.DAMPING * np.diag(hessian).mean() * np.eye(READS)
    left = weight.double().numpy().copy()
    inverses = [np.linalg.inv(hessian[column:, column:]) for column in range(READS)]
    scales = np.array([inverse[0, 0] for inverse in inverses])
    gone = np.zeros_like(left, dtype=bool)
    if pattern == "unstructured":
        order = np.argsort((left**2 / scales).reshape(-1))
        gone.reshape(-1)[order[: GIVES * READS // 2]] = True
    for column in range(READS):
        if pattern == "2:4" and column % 4 == 0:
            score = left[:, column : column + 4] ** 2 / scales[column : column + 4]
            np.put_along_axis(gone[:, column : column + 4], np.argsort(score, 1)[:, :2], True, 1)
        error = np.where(gone[:, column], left[:, column], 0.0) / scales[column]
        left[:, column:] -= error[:, None] * inverses[column][0]
        left[gone[:, column], column] = 0.0
    found = sparsity.sparsegpt(weight, gram, 0.5, pattern).numpy()
    assert ((found == 0) == gone).all()
    assert found == pytest.approx(left, rel=1e-4, abs=1e-5)


def test_sparsegpt_decides_about_some_columns_at_a_time(
    monkeypatch: pytest.MonkeyPatch, layer: tuple[Any, Any]
) -> None:
    from manta.compress.pruning import sparsity

    monkeypatch.setattr(sparsity, "COLUMNS", 8)
    weight, gram = layer
    gone = sparsity.sparsegpt(weight, gram, 0.5, "unstructured") == 0
    assert [int(part.sum()) for part in gone.split(8, dim=1)] == [GIVES * 4] * 2


def test_channels_that_read_nothing_do_not_break_it(layer: tuple[Any, Any]) -> None:
    from manta.compress.pruning import sparsity

    weight, _ = layer
    new = sparsity.sparsegpt(weight, torch.zeros(READS, READS), 0.5, "unstructured")
    assert bool(new.isfinite().all())


def test_errors_get_smaller_the_more_is_looked_at(layer: tuple[Any, Any]) -> None:
    from manta.compress.pruning import sparsity

    weight, gram = layer

    def far(method: str) -> float:
        error = sparsity.METHODS[method](weight, gram, 0.5, "unstructured") - weight
        return float(((error @ gram) * error).sum())

    assert far("sparsegpt") < far("wanda") < far("magnitude")
