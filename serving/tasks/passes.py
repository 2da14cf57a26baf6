"""What a model computes of rows that go together: outputs of a head, a vector of each text, or new tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from serving.tasks.model import Model, Row

if TYPE_CHECKING:
    import numpy as np

AT_ONCE_TOKENS = 8192  # of the padded rows of one computation
GAP_TOKENS = 2048  # the same where each place gets a number for each word of a vocabulary: 250 MB for 30,000 words
READ = ("input_ids", "attention_mask", "token_type_ids")


def logits(model: Model, rows: Sequence[Row]) -> list[np.ndarray]:
    """Of each row what the head says, float32: (labels,), (seq, labels), (seq, vocabulary) or, of starts and ends, (2, seq)."""
    import torch

    given = _padded(model, rows)
    with torch.inference_mode():
        found = model.network(**given)
        if "start_logits" in found:
            out = torch.stack([found.start_logits, found.end_logits], 1)  # (rows, 2, seq)
            return [each[:, : row.length] for each, row in zip(_numpy(out), rows, strict=True)]
        out = found.prediction_logits if "prediction_logits" in found else found.logits
    if out.ndim == 2:
        return list(_numpy(out))
    return [each[: row.length] for each, row in zip(_numpy(out), rows, strict=True)]


def gaps(model: Model, rows: Sequence[Row]) -> list[np.ndarray]:
    """Of each row the log-probabilities of what may stand in its gaps, float32 (gaps, vocabulary); `notes` are their places.

    All places are computed, as the model is made, but only these are copied: a vocabulary is wide.
    """
    import torch

    given = _padded(model, rows)
    with torch.inference_mode():
        found = model.network(**given)
        out = found.prediction_logits if "prediction_logits" in found else found.logits
        return [
            torch.log_softmax(each[list(row.notes)].float(), -1).cpu().numpy()
            for each, row in zip(out, rows, strict=True)
        ]


def vectors(model: Model, rows: Sequence[Row]) -> list[np.ndarray]:
    """Of each row one vector, float32 (width,): as the directory's modules.json says, else the mean of the last hidden
    states. Its length is not changed here."""
    import torch

    given = _padded(model, rows)
    with torch.inference_mode():
        states = model.network(**given).last_hidden_state.float()  # (rows, seq, width)
        seen = given["attention_mask"][:, :, None].to(states.dtype)
        return list(_numpy(POOLS[pooling(model)](states, seen)))


def mean(states: Any, seen: Any) -> Any:
    return (states * seen).sum(1) / seen.sum(1).clamp(min=1.0)


def first(states: Any, seen: Any) -> Any:
    del seen
    return states[:, 0]


def last(states: Any, seen: Any) -> Any:
    import torch

    return states[torch.arange(len(states)), seen[:, :, 0].sum(1).long() - 1]


def largest(states: Any, seen: Any) -> Any:
    return states.masked_fill(seen == 0, float("-inf")).amax(1)


# Sentence-transformers' names of poolings -> (states (rows, seq, width), seen (rows, seq, 1)) -> (rows, width).
POOLS: dict[str, Callable[[Any, Any], Any]] = {"mean_tokens": mean, "cls_token": first, "lasttoken": last, "max_tokens": largest}  # fmt: skip


def pooling(model: Model) -> str:
    """The pooling that the directory names, of POOLS; the mean where it names none."""
    file = model.folder / "1_Pooling" / "config.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if isinstance(mode := told.get("pooling_mode"), str):
        return {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}.get(mode, mode)
    chosen = [name for name in POOLS if told.get(f"pooling_mode_{name}")]
    return chosen[0] if chosen else "mean_tokens"


def answers(model: Model, rows: Sequence[Row]) -> list[list[int]]:
    """Of each row the new tokens that an encoder-decoder writes. The rows' one manner is (most new tokens, beams)."""
    from manta.tasks.scoring import generation

    limit, beams = rows[0].manner
    return generation.answers(model.network, [row.columns["input_ids"] for row in rows], model.pad_id, limit, beams)


def together(rows: Sequence[Row], at_once: int = AT_ONCE_TOKENS) -> list[list[int]]:
    """The places of rows that are computed together: of like length, at most so many tokens with their padding."""
    by_length = sorted(range(len(rows)), key=lambda place: rows[place].length)
    found: list[list[int]] = []
    for place in by_length:
        length = rows[place].length
        if found and length * (len(found[-1]) + 1) <= at_once and length <= 2 * rows[found[-1][0]].length + 16:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def _padded(model: Model, rows: Sequence[Row]) -> dict[str, Any]:
    """The rows' columns as int64 tensors (rows, longest), filled up on the right."""
    import torch

    longest = max(row.length for row in rows)
    given = {}
    for name in READ:
        if name in rows[0].columns:
            filler = model.pad_id if name == "input_ids" else 0
            lists = [[*row.columns[name], *[filler] * (longest - row.length)] for row in rows]
            given[name] = torch.tensor(lists, dtype=torch.long, device=model.device)
    return given


def _numpy(found: Any) -> Any:
    return found.float().cpu().numpy()
