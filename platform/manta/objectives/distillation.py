"""Knowledge distillation: a teacher's probabilities of each token, and its states on the way, beside the token itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manta.objectives import stored
from manta.objectives.clm import shifted
from manta.objectives.encoder import scored_only
from manta.objectives.sums import NOT_SCORED
from manta.sections.objective import Hidden

if TYPE_CHECKING:
    import torch

INNER = "model."  # in the names of the weights of what `attach` returns


def distillation(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    temperature: float,
    hard_weight: float,
    teacher: Any = None,
    hidden: Hidden | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over the positions that `clm` scores, and their number (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Of each: (1 - a) T^2 KL(p_T || q_T) + a (-log q_1(label)) + w H, with a = `hard_weight`, T = `temperature`, teacher's p
    and student's q, p_T = softmax(logits / T). T^2 keeps the gradient's size, whatever T is. `teacher` is a model of
    Transformers that is asked for all tokens, and through which nothing is learnt. Without one the batch has the column
    `teacher`, int32 (batch, seq * words): the teacher's k likeliest tokens at T (`stored`). The rest is one more outcome,
    KL = sum over k of p log(p / q) + r log(r / s) with r = 1 - sum of p and s = 1 - sum of q: with k = vocabulary the same as
    before, else at most that, 0 only where all k and the rest agree. Tokens that the teacher lacks have p = 0; its
    tokens that the student lacks are left out before softmax.

    w = `hidden.weight`, and H is the mean, over the student's embeddings and blocks i, of the distance of states i of the
    student and round(i * blocks of the teacher / blocks of the student) of the teacher. The batch is that of `clm`. Both
    results are scalars: float32 nats, int64.
    """
    import torch

    from manta.objectives.fused import RowSums

    inputs, targets = shifted(batch)
    where = targets != NOT_SCORED  # (batch, seq)
    logits, states = _answers(model, inputs, where, hidden is not None)  # (scored, vocab)
    wanted: Sequence[torch.Tensor] = ()
    soft: Callable[..., torch.Tensor]
    if teacher is not None:
        with torch.no_grad():
            answers, wanted = _answers(teacher, inputs, where, hidden is not None)
        told, soft = [answers], exact
    else:
        packed = batch[stored.COLUMN].unflatten(1, (where.size(1), -1))[where]  # (scored, words)
        told, soft = list(stored.unpack(packed, logits.size(1))), bucketed
    rows = functools.partial(_rows, temperature=temperature, hard_weight=hard_weight, soft=soft)
    loss = RowSums.apply(logits, rows, targets[where], *told)
    if hidden is not None:
        loss = loss + hidden.weight * _deep(states, wanted, MEASURES[hidden.measure])
    return loss, where.sum()


def _answers(
    model: Any, inputs: dict[str, torch.Tensor], where: torch.Tensor, deep: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits (scored, vocab) at `where`, and if they are wanted the states of embeddings and blocks, (scored, width) each."""
    asked = {"output_hidden_states": True} if deep else {}
    with scored_only(model, where):
        found = model(**inputs, **asked, use_cache=False)
    logits = found.logits if found.logits.dim() == 2 else found.logits[where]
    return logits, [states[where] for states in found.hidden_states] if deep else []


def _rows(
    logits: torch.Tensor, targets: torch.Tensor, *told: torch.Tensor, temperature: float, hard_weight: float, soft: Any
) -> torch.Tensor:
    """The loss of some rows, without states: logits (rows, vocab), targets int64 (rows,), what a kind of teacher told."""
    import torch

    log_q = torch.log_softmax(logits.float() / temperature, dim=-1)
    total = log_q.new_zeros(())
    if hard_weight < 1.0:
        total = total + (1.0 - hard_weight) * temperature**2 * soft(log_q, *told, temperature)
    if hard_weight > 0.0:
        at_one = log_q if temperature == 1.0 else torch.log_softmax(logits.float(), dim=-1)
        total = total - hard_weight * at_one.gather(1, targets[:, None]).sum()
    return total


def exact(log_q: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum over rows of KL(p || q), with p by the teacher's logits `answers` (rows, vocab of the teacher)."""
    import torch

    log_p = torch.log_softmax(answers[:, : log_q.size(1)].float() / temperature, dim=-1)
    known = log_q[:, : log_p.size(1)]
    return torch.nn.functional.kl_div(known, log_p, reduction="sum", log_target=True)


def bucketed(
    log_q: torch.Tensor, ids: torch.Tensor, log_p: torch.Tensor, rest: torch.Tensor, _temperature: float
) -> torch.Tensor:
    """The same of what `stored.unpack` gives, with all tokens but the k likeliest as one outcome."""
    import torch

    total = torch.nn.functional.kl_div(log_q.gather(1, ids), log_p, reduction="sum", log_target=True)
    if ids.size(1) == log_q.size(1):
        return total
    others = log_q.scatter(1, ids, -torch.inf).logsumexp(dim=-1)
    return total + torch.nn.functional.kl_div(others, rest, reduction="sum", log_target=True)


# --- states on the way -----------------------------------------------------------------------------------------------


def _deep(states: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], measure: Any) -> torch.Tensor:
    """Sum over positions of the mean distance of the states at matching depths."""
    import torch

    pairs = matching(len(states) - 1, len(wanted) - 1)
    return torch.stack([measure(states[mine].float(), wanted[other].float()).sum() for mine, other in pairs]).mean()


def matching(blocks: int, blocks_of_teacher: int) -> list[tuple[int, int]]:
    """Which states of the teacher are those of the student, as numbers of blocks that lie behind (0: the embeddings)."""
    return [(block, (2 * block * blocks_of_teacher + blocks) // (2 * blocks)) for block in range(blocks + 1)]


def mse(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of each row (TinyBERT, arXiv:1909.10351, equation 7): (rows, width) -> (rows,)."""
    return (states - wanted).square().mean(dim=-1)


def cosine(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """1 - cosine of each row (DistilBERT, arXiv:1910.01108): no state's size counts, of which a few are very large."""
    import torch

    return 1.0 - torch.nn.functional.cosine_similarity(states, wanted, dim=-1)


MEASURES = {"mse": mse, "cosine": cosine}


def attach(model: Any, width: int, seed: int) -> Any:
    """The model with a layer beside it that brings its states to `width`, drawn from `seed`: the same on all workers.

    Where they have that width already, the model as it is.
    """
    if model.config.hidden_size == width:
        return model
    from manta.objectives.projection import WithProjection

    return WithProjection(model, width, seed)


def detach(model: Any, weights: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The model alone and its weights, by its own names. `model` is what `attach` returned."""
    if not hasattr(model, "projection"):
        return model, weights
    own = {name.removeprefix(INNER): tensor for name, tensor in weights.items() if name.startswith(INNER)}
    return model.model, own
