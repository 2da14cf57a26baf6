"""The likeliest answers, whatever a directory's own settings say; those of an encoder-decoder in padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

AT_ONCE = 16  # rows of like length, computed together
# Of the model's own settings only what says how an answer begins, ends and is filled up is kept.
KEPT = (
    "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id",
    "bad_words_ids",
)  # fmt: skip
# Without these a directory's generation_config.json would decide: Transformers fills in what is not said.
PLAIN = {
    "do_sample": False, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0, "early_stopping": False,
    "num_return_sequences": 1, "use_cache": True,
}  # fmt: skip


def answers(model: Any, asked: Sequence[Sequence[int]], pad_id: int, limit: int, beams: int = 1) -> list[list[int]]:
    """The new tokens of each row of token ids, in their order, without what comes from the end of text on.

    They are at most `limit`, and no more than the model has positions.

    Greedy, or with `beams` above 1 the best of so many beams by its mean log-probability a token. `model` is one of
    Transformers' for conditional generation (or peft's around it), in evaluation mode. Rows of like length go together,
    padded on the right; which ones do depends on their lengths alone, so that the same rows give the same answers.
    """
    import torch

    positions = getattr(model.config, "max_position_embeddings", None)  # relative ones have no end
    settings = plain(model.generation_config, pad_id, min(limit, positions or limit), beams)
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    device = next(model.parameters()).device
    found: dict[int, list[int]] = {}
    for places in groups(asked):
        longest = max(len(asked[place]) for place in places)
        ids = torch.full((len(places), longest), pad_id, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, place in enumerate(places):
            ids[row, : len(asked[place])] = torch.tensor(asked[place], device=device)
            mask[row, : len(asked[place])] = 1
        with torch.no_grad():
            whole = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        found |= {place: _upto(answer[1:], ends) for place, answer in zip(places, whole.tolist(), strict=True)}
    return [found[place] for place in range(len(asked))]


def plain(given: Any, pad_id: int | None, limit: int, beams: int = 1) -> Any:
    """A GenerationConfig of at most `limit` likeliest tokens: of a model's own settings (`given`, another) only KEPT."""
    from transformers import GenerationConfig

    kept = {name: value for name in KEPT if (value := getattr(given, name, None)) is not None}
    least = "min_length" if given.min_new_tokens is None else "min_new_tokens"  # of the two it wants to hear of one
    usual = {"pad_token_id": pad_id, **kept, **PLAIN, least: 0}
    return GenerationConfig(**usual, num_beams=beams, max_new_tokens=limit)


def groups(asked: Sequence[Sequence[int]]) -> list[list[int]]:
    """The places of rows that are computed together, of like length."""
    by_length = sorted(range(len(asked)), key=lambda place: len(asked[place]))
    return [by_length[first : first + AT_ONCE] for first in range(0, len(by_length), AT_ONCE)]


def _upto(tokens: list[int], ends: Sequence[int | None]) -> list[int]:
    """What stands before the first end of text."""
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
