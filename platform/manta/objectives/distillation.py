"""Knowledge distillation: a teacher's probabilities of each token beside the token itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives.clm import shifted
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import torch


def distillation(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    teacher: Callable[..., torch.Tensor],
    temperature: float,
    hard_weight: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over the positions that `clm` scores, and their number (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Of each: (1 - a) T^2 KL(teacher_T || student_T) + a (-log student_1(label)), with a = `hard_weight`, T = `temperature`
    and p_T = softmax(logits / T). T^2 keeps the gradient's size, whatever T is. The batch is that of `clm`; `teacher`
    is called with what the model reads (`input_ids` and, if given, `position_ids`, int64 (batch, seq)) and returns
    logits (batch, seq, vocab), through which nothing is learnt. Both results are scalars: float32 nats, int64.
    """
    import torch

    inputs, targets = shifted(batch)
    where = targets != NOT_SCORED  # (batch, seq)
    with torch.no_grad():
        wanted = teacher(**inputs)[where].float()  # (scored, vocab)
    logits = model(**inputs, use_cache=False).logits[where].float()
    # Vocabularies are padded to different sizes: what only one of both has is no token.
    size = min(wanted.size(-1), logits.size(-1))
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(logits[:, :size] / temperature, dim=-1),
        torch.log_softmax(wanted[:, :size] / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    hard, scored = cross_entropy(logits, targets[where])
    return (1.0 - hard_weight) * temperature**2 * soft + hard_weight * hard, scored
