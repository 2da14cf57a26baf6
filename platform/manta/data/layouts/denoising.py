"""Rows for T5's span corruption: whole text on storage, hidden spans drawn anew each time a row is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from manta.data import draws
from manta.data.layouts import concat
from manta.data.layouts.rows import Documents, Rows
from manta.data.shards import Noise
from manta.data.tokenizer import Facts
from manta.errors import InputError
from manta.sections.layout import Concat, Denoising

COLUMNS = ("input_ids", "labels")  # of a sample


def noise(settings: Denoising, seq_len: int, known: Facts) -> Noise:
    """How many tokens a row needs to fill the encoder's `seq_len` exactly, as T5 computes it (512 -> 568 tokens).

    Raises InputError if seq_len is too small, or the tokenizer has too few sentinels.
    """
    # Each further token of text adds one or none to the encoder's input, so the search steps on every length.
    tokens = seq_len - 1
    while _spread(tokens + 1, settings).input_len <= seq_len:
        tokens += 1
    found = _spread(tokens, settings)
    if found.spans < 1 or found.tokens - found.hidden < found.spans or found.input_len != seq_len:
        raise InputError(
            f"data.seq_len = {seq_len}: rows cannot hide {settings.noise_density:g} of their tokens (data.layout.noise_density) in "
            f"spans of {settings.mean_span:g} (data.layout.mean_span) with text between them: raise data.seq_len or data.layout.mean_span"
        )
    if len(known.sentinels) < found.spans:
        raise InputError(
            f"data.layout.kind = 'denoising' hides {found.spans} spans in a row of data.seq_len = {seq_len}, the tokenizer has "
            f"{len(known.sentinels)} sentinels (<extra_id_0> ...): set tokenizer.type=unigram tokenizer.sentinels={max(100, found.spans)}, "
            "lower data.seq_len or raise data.layout.mean_span"
        )
    return replace(found, eos_id=known.eos_id, sentinels=known.sentinels[: found.spans])


def _spread(tokens: int, settings: Denoising) -> Noise:
    """How many of `tokens` are hidden, in how many spans: at least one of each."""
    # Halves go up: then one more token never hides two more.
    hidden = min(max(int(tokens * settings.noise_density + 0.5), 1), tokens - 1)
    return Noise(tokens, hidden, max(int(hidden / settings.mean_span + 0.5), 1), eos_id=0, sentinels=())


def lay(documents: Documents, settings: Denoising) -> Rows:
    """The whole text in rows of as many tokens as `noise` says; `corrupt` makes samples of them."""
    wanted = noise(settings, documents.seq_len, documents.known).tokens
    return concat.lay(replace(documents, seq_len=wanted), Concat(kind="concat", isolate=False))


def corrupt(rows: np.ndarray, samples: np.ndarray, seed: int, noise: Noise) -> dict[str, np.ndarray]:
    """Hide spans of rows, int32 (n, noise.tokens): a pure function of (seed, global sample index), int64 (n,).

    Returns `input_ids` (n, input_len), in which sentinel k stands for span k, and `labels` (n, target_len): each
    sentinel and the span it stands for. Both are closed by the end-of-text token. Span lengths are drawn so that all
    ways to divide the hidden and the other tokens are equally likely (Raffel et al. 2020, arXiv:1910.10683, 3.1.4).
    """
    begins = _begins(samples, seed, noise)
    starts = np.zeros(rows.shape, dtype=np.int32)
    np.put_along_axis(starts, begins, 1, axis=1)
    segment = starts.cumsum(axis=1) - 1  # (n, tokens): even ones are shown, odd ones hidden
    hidden, span = segment % 2 == 1, segment // 2
    opening = hidden & (starts == 1)
    sentinel = np.asarray(noise.sentinels, dtype=np.int32)[span]
    ids = np.full((len(rows), noise.input_len), noise.eos_id, dtype=np.int32)
    ids[:, :-1] = np.where(opening, sentinel, rows)[~hidden | opening].reshape(len(rows), -1)
    labels = np.full((len(rows), noise.target_len), noise.eos_id, dtype=np.int32)
    # Before a hidden token stand the hidden ones before it and the sentinels of its span and those before.
    place = hidden.cumsum(axis=1) + span
    row = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    labels[row[hidden], place[hidden]] = rows[hidden]
    labels[row[opening], place[opening] - 1] = sentinel[opening]
    return {"input_ids": ids, "labels": labels}


def _begins(samples: np.ndarray, seed: int, noise: Noise) -> np.ndarray:
    """Where the segments begin, shown and hidden ones in turn: int64 (n, 2 * spans)."""
    shown = _parts(samples, seed, noise.tokens - noise.hidden, noise.spans, use=0)
    hidden = _parts(samples, seed, noise.hidden, noise.spans, use=1)
    lengths = np.stack([shown, hidden], axis=2).reshape(len(shown), -1)
    return lengths.cumsum(axis=1) - lengths


def _parts(samples: np.ndarray, seed: int, total: int, parts: int, use: int) -> np.ndarray:
    """`total` as a sum of `parts` positive numbers, each such sum equally likely: int64 (n, parts)."""
    drawn = draws.bits(seed, samples, total - 1, use)
    cuts = np.sort(np.argsort(drawn, axis=1, kind="stable")[:, : parts - 1], axis=1) + 1
    edge = np.zeros((len(cuts), 1), dtype=np.int64)
    return np.diff(np.concatenate([edge, cuts, edge + total], axis=1), axis=1)
