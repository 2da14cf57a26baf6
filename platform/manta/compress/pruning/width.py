"""Which channels of a model matter least, and what the others have to become for their going to show least."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.compress.pruning import walking
from manta.compress.pruning.anatomy import HIDDEN, INTERMEDIATE, KEYS, QUERIES
from manta.compress.pruning.cutting import Loaded, blocks

if TYPE_CHECKING:
    import numpy as np

DAMPING = 0.01  # of the mean of a Gram matrix's diagonal, added to the diagonal
TINY = 1e-300  # what a vector of zeros is divided by

Report = Callable[[int, int], None]  # called with (blocks done, blocks)


class Wanted(NamedTuple):
    """How many channels are to stay; None: all. `groups` are heads that share keys and values (one each, or several)."""

    intermediate: int | None
    groups: int | None
    hidden: int | None


def choose(
    loaded: Loaded, rows: np.ndarray, wanted: Wanted, refit: bool, report: Report
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What stays: the hidden channels, and block by block the others; axis -> int64 (channels,), ascending.

    Changes the model where it stands: what goes is zero afterwards, and what stays makes up for it.
    """
    each: list[dict[str, Any]] = [{} for _ in blocks(loaded)]
    if wanted.intermediate is not None or wanted.groups is not None:
        walking.walk(loaded, rows, lambda *visited: _block(loaded, wanted, refit, each, report, *visited))
    everywhere = {} if wanted.hidden is None else {HIDDEN: _hidden(loaded, rows, wanted.hidden)}
    return everywhere, each


def importance(squares: Any, weight: Any) -> Any:
    """How much each channel that a linear layer reads adds to what it gives: sqrt(mean of its square) x norm of its weights.

    Minitron (arXiv:2407.14679, section 2.2) takes the first factor alone; the second is what Wanda (arXiv:2306.11695)
    puts beside it. `squares` (channels,) are means over tokens, `weight` is (gives, channels); returns (channels,).
    """
    return squares.sqrt() * weight.norm(dim=0)


def _block(
    loaded: Loaded,
    wanted: Wanted,
    refit: bool,
    each: list[dict[str, Any]],
    report: Report,
    number: int,
    block: Any,
    run: Callable[[], Any],
) -> None:
    """Choose in one block, and change its output layers."""
    import torch

    found, old = loaded.anatomy, loaded.sizes
    layers = {}
    if wanted.intermediate is not None:
        layers[INTERMEDIATE] = block.get_submodule(found.down)
    if wanted.groups is not None:
        layers[QUERIES] = block.get_submodule(found.out)
    grams = gram(layers, run)
    for axis, layer in layers.items():
        weight = layer.weight.data.T if found.transposed else layer.weight.data  # (gives, channels)
        scores = importance(grams[axis].diagonal(), weight)
        if axis == INTERMEDIATE:
            assert wanted.intermediate is not None
            kept = _best(scores, wanted.intermediate)
        else:
            assert wanted.groups is not None
            groups = _best(scores.square().view(old.groups, -1).sum(1), wanted.groups)
            each[number][KEYS] = _spread(groups, old.head_dim)
            kept = _spread(groups, old.heads // old.groups * old.head_dim)
        each[number][axis] = kept
        with torch.no_grad():
            new = torch.zeros_like(weight)
            new[:, kept] = refitted(weight, grams[axis], kept) if refit else weight[:, kept]
            weight.copy_(new)
    report(number + 1, len(each))


def gram(layers: dict[str, Any], run: Callable[[], Any]) -> dict[str, Any]:
    """Mean over tokens of x x' for the inputs x of each layer while `run()` runs: (channels, channels) float32."""
    sums: dict[str, Any] = {}
    tokens: dict[str, int] = dict.fromkeys(layers, 0)

    def watcher(name: str) -> Callable[[Any, Any], None]:
        def see(given: Any, result: Any) -> None:
            del result
            flat = given.reshape(-1, given.shape[-1]).float()  # (tokens, channels)
            product = flat.T @ flat
            sums[name] = sums[name] + product if name in sums else product
            tokens[name] += len(flat)

        return see

    with walking.hooked([(layer, watcher(name)) for name, layer in layers.items()]):
        run()
    return {name: total / tokens[name] for name, total in sums.items()}


def refitted(weight: Any, gram: Any, kept: Any) -> Any:
    """Weights of the channels that stay, with which the layer gives nearest to what it gave with all: (gives, kept) float32.

    Least squares over the tokens, drawn towards the weights as they were: W_k + W_g G_gk (G_kk + damping)^-1, with G the
    mean of x x', k what stays and g what goes. Nothing changes where what goes was zero.
    """
    import torch

    gone = _others(kept, len(gram))
    inner = gram[kept][:, kept].double()
    inner.diagonal().add_(DAMPING * float(gram.diagonal().double().mean()) + 1e-12)
    between = gram[kept][:, gone].double() @ weight[:, gone].double().T  # (kept, gives)
    change = torch.linalg.solve(inner, between).T
    return (weight[:, kept].double() + change).float()


def _hidden(loaded: Loaded, rows: np.ndarray, count: int) -> Any:
    """The hidden channels that stay: those largest behind the norms (root mean square over tokens, added up over the
    norms; Minitron, section 2.2). Scales each norm for the mean square that it will take over fewer channels.

    A norm's share f of its input's square lies in the channels that stay, so what it divides by becomes
    sqrt(f d / k) of what it was, with d channels before and k after: its weights are multiplied by that.
    """
    import torch

    found, old = loaded.anatomy, loaded.sizes
    norms = _norms(loaded)
    given_squares, made_squares = ([torch.zeros(old.hidden, dtype=torch.float64) for _ in norms] for _ in range(2))
    tokens = 0

    def watcher(place: int) -> Callable[[Any, Any], None]:
        def see(given: Any, result: Any) -> None:
            nonlocal tokens
            flat = given.reshape(-1, given.shape[-1]).double()  # (tokens, hidden)
            if found.centred:
                flat = flat - flat.mean(1, keepdim=True)
            square = flat.square()
            given_squares[place] += (square / square.sum(1, keepdim=True).clamp_min(TINY)).sum(0)
            made_squares[place] += result.reshape(-1, result.shape[-1]).double().square().sum(0)
            tokens += len(flat) if place == 0 else 0

        return see

    with walking.hooked([(norm, watcher(place)) for place, norm in enumerate(norms)]):
        for _ in walking.forward(loaded, rows):
            pass
    kept = _best(sum((square / tokens).sqrt() for square in made_squares), count)
    with torch.no_grad():
        for norm, squares in zip(norms, given_squares, strict=True):
            share = float(squares[kept].sum() / squares.sum())
            norm.weight.mul_((share * old.hidden / count) ** 0.5)
    key = found.keys["eps"]
    setattr(loaded.model.config, key, getattr(loaded.model.config, key) * old.hidden / count)
    return kept


def _norms(loaded: Loaded) -> list[Any]:
    """Every norm over the hidden channels."""
    found, model = loaded.anatomy, loaded.model
    outer = set(found.outer_norms)
    named = dict(model.named_modules())
    prefix = model.base_model_prefix
    others = [
        module
        for name, module in named.items()
        if name.removeprefix(f"{prefix}.") in outer and hasattr(module, "weight")
    ]
    return [block.get_submodule(name) for block in blocks(loaded) for name in found.norms] + others


def _best(scores: Any, count: int) -> Any:
    """The places of the `count` largest, ascending; of equal ones the first."""
    import torch

    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values


def _spread(units: Any, width: int) -> Any:
    """The channels of units that are `width` channels each."""
    import torch

    return (units[:, None] * width + torch.arange(width)).reshape(-1)


def _others(kept: Any, total: int) -> Any:
    import torch

    gone = torch.ones(total, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero()[:, 0]
