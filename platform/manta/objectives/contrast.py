"""Learning by contrast: a text's vector is to lie closer to that of its positive than to those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives.labels import Logits
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import numpy as np
    import torch

SIDES = ("", "positive_", "negative_")  # how the columns of texts, positives and negatives begin


def contrast(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    group: int = 8,
    temperature: float = 0.05,
    keep: Logits | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over texts i of -log(exp(s(i, i) / T) / sum_c exp(s(i, c) / T)) and the number of texts: float32 nats, int64.

    InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, equation 4) with s the cosine of two `vectors`, T = `temperature`,
    and c running over the positives and negatives of i's group: `group` rows of the batch, one group after another.
    What belongs to i as well is no candidate: texts that are the same as i's positive, and what belongs to rows whose
    text is the same as i's. So are those of rows whose `labels`, int (batch,), are -100, which are not scored either.

    The batch holds what `vectors` wants for texts, positives ("positive_" before the names) and, if there are any,
    negatives ("negative_"). To `keep` is added float32 (batch, sides, width): the vectors.
    """
    import torch

    sides = [prefix for prefix in SIDES if f"{prefix}input_ids" in batch]
    columns = ("input_ids", "attention_mask", "token_type_ids")
    together = {name: torch.cat([batch[prefix + name] for prefix in sides]) for name in columns if name in batch}
    found = vectors(model, together)
    texts, *others = found.chunk(len(sides))  # (batch, width) each
    if keep is not None:
        keep.append(torch.stack([texts, *others], dim=1).detach().cpu())
    scored = batch["labels"] != NOT_SCORED
    near = _grouped(texts, group) @ torch.cat([_grouped(side, group) for side in others], dim=1).mT  # (groups, g, c)
    near = near.masked_fill(_no_candidate(batch, sides[1:], scored, group), -torch.inf)
    own = torch.arange(group, device=near.device).repeat(len(near))  # each text's positive
    return cross_entropy(near.flatten(0, 1) / temperature, own.masked_fill(~scored, NOT_SCORED))


def settled(model: Any) -> Any:
    """The model, of which a layer for the whole text (BERT's pooler), which `vectors` does not use, stays as it is."""
    for name, parameter in model.named_parameters():
        if "pooler" in name.split("."):
            parameter.requires_grad_(False)
    return model


def vectors(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean of a text's last hidden states, brought to length 1: float32 (batch, width).

    `input_ids`, `attention_mask` (0 where a row is only filled up) and, if given, `token_type_ids` are int (batch, seq).
    `model` is one of Transformers' without a head.
    """
    import torch

    states = model(**{name: values.long() for name, values in batch.items()}).last_hidden_state.float()
    seen = batch["attention_mask"][:, :, None].to(states.dtype)  # (batch, seq, 1)
    return torch.nn.functional.normalize((states * seen).sum(1) / seen.sum(1).clamp(min=1.0), dim=1)


def contrast_scored(batch: Mapping[str, np.ndarray]) -> int:
    """How many texts of a batch (numpy) are scored."""
    return int((batch["labels"] != NOT_SCORED).sum())


def _no_candidate(
    batch: Mapping[str, torch.Tensor], others: list[str], scored: torch.Tensor, group: int
) -> torch.Tensor:
    """Whether each text is not to be compared with each candidate: bool (groups, group, candidates)."""
    import torch

    words = {
        prefix: _grouped(batch[f"{prefix}input_ids"].masked_fill(batch[f"{prefix}attention_mask"] == 0, -1), group)
        for prefix in ("", *others)
    }  # (groups, group, seq) each
    again = _same(words[""], words[""])
    unscored = ~_grouped(scored, group)[:, None, :].expand_as(again)
    parts = []
    for prefix in others:
        right = _same(words["positive_"], words[prefix])
        parts.append(right | unscored | (again if prefix == "positive_" else False))
    parts[0] = parts[0] & ~torch.eye(group, dtype=torch.bool, device=again.device)
    return torch.cat(parts, dim=2)


def _same(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Whether each row of one is each row of the other: (groups, a, seq), (groups, b, seq) -> bool (groups, a, b)."""
    return (one[:, :, None] == other[:, None, :]).all(dim=-1)


def _grouped(values: torch.Tensor, group: int) -> torch.Tensor:
    """(batch, ...) -> (groups, group, ...)."""
    return values.reshape(-1, group, *values.shape[1:])
