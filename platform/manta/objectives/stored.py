"""A teacher's likeliest tokens and their probabilities, packed into int32: what is stored, and what the loss reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

COLUMN = "teacher"
NARROW = 2**16  # ids of smaller vocabularies take half an int32
NEVER = -1.0e4  # stands for the logarithm of 0: its exponential is 0, and it can be multiplied by that


def words(top_k: int, vocab: int) -> int:
    """int32 a position, of a student whose output has `vocab` tokens."""
    return top_k + 1 if vocab <= NARROW else top_k + (top_k + 2) // 2


def likeliest(
    logits: torch.Tensor, top_k: int, temperature: float, vocab: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The teacher's `top_k` likeliest tokens of those below `vocab`, which the student has: int64 (n, k), likeliest first.

    With them log p_T of each, float32 (n, k), and of all others together, (n,), where p_T = softmax(logits / temperature)
    of logits (n, vocab of the teacher). Some rows at a time: what is read several times stays in the processor's cache.
    """
    import torch

    from manta.objectives.fused import rows_at_once

    parts = logits[:, :vocab].split(rows_at_once(logits))
    ids, log_p, rest = zip(*(_likeliest(part, top_k, temperature) for part in parts), strict=True)
    return torch.cat(ids), torch.cat(log_p), torch.cat(rest)


def _likeliest(logits: torch.Tensor, top_k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    found, ids = log_p.topk(min(top_k, log_p.size(1)), dim=-1)
    if ids.size(1) == log_p.size(1):
        return ids, found, torch.full_like(found[:, 0], -torch.inf)
    return ids, found, log_p.scatter(1, ids, -torch.inf).logsumexp(dim=-1)


def pack(ids: torch.Tensor, log_p: torch.Tensor, rest: torch.Tensor, vocab: int) -> torch.Tensor:
    """What `likeliest` found as int32 (n, words): the ids, as 16 bits where the student's `vocab` allows it, then float16.

    Logarithms of probabilities, since a float16 of -8 is off by 0.2 per cent, and one of -0.1 by 0.003.
    """
    import torch

    values = torch.cat([log_p, rest[:, None]], dim=1).half()  # (n, k + 1)
    if vocab <= NARROW:
        blank = values.new_zeros(len(values), 1)
        return torch.cat([ids.to(torch.int16), torch.cat([values, blank], dim=1).view(torch.int16)], dim=1).view(
            torch.int32
        )
    if values.size(1) % 2:
        values = torch.cat([values, values.new_zeros(len(values), 1)], dim=1)
    return torch.cat([ids.to(torch.int32), values.view(torch.int32)], dim=1)


def unpack(packed: torch.Tensor, vocab: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The inverse: ids int64 (n, k), float32 log p_T (n, k) and of the rest (n,), which together are 1 once more."""
    import torch

    packed = packed.contiguous()
    if vocab <= NARROW:
        top_k = packed.size(1) - 1
        ids = packed.view(torch.int16)[:, :top_k].long() & (NARROW - 1)
        values = packed.view(torch.float16)[:, top_k : 2 * top_k + 1]
    else:
        top_k = (2 * packed.size(1) - 1) // 3
        ids = packed[:, :top_k].long()
        values = packed[:, top_k:].contiguous().view(torch.float16)[:, : top_k + 1]
    log_p = torch.log_softmax(values.float(), dim=1).clamp(min=NEVER)  # rounding has moved the sum
    return ids, log_p[:, :top_k], log_p[:, top_k]
