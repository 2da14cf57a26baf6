"""The view of BART's denoising: one mask token for each hidden span, sentences in another order, the text as labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from manta.data import draws
from manta.data.views.words import Ids
from manta.sections.objective import Infilling

NOT_SCORED = -100
LENGTHS, PLACES, ORDER = 32, 33, 34  # draws of their own
NEVER = np.uint64(2**64 - 1)


@dataclass(frozen=True, eq=False)
class Infilled:
    """Damages rows as BART does (Lewis et al. 2019, arXiv:1910.13461, 2.2): a pure function of (seed, sample index).

    In: `input_ids` int32 (n, seq). Out: `input_ids` int32 (n, seq), in which each span is one mask token, filled up with
    padding; `attention_mask`, 0 for padding; `labels`: the row itself, -100 for padding. Of the text's tokens
    round(mask_fraction * number), at least one, are hidden. The lengths of spans follow a Poisson distribution (the
    last one is cut to fit), and all ways to place them are equally likely; a span of length 0 puts a mask token
    between two others. Special tokens are never hidden: one within a span cuts it in two. No row becomes longer: spans
    of length 0 are dropped where it would.
    """

    columns_in: tuple[str, ...]
    columns_out: tuple[str, ...]
    settings: Infilling
    ids: Ids
    pad_id: int  # fills up
    filled: bool  # whether rows as stored may end in padding: the layout fills rows up with `pad_id`

    def __call__(self, columns: dict[str, np.ndarray], samples: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        rows = columns["input_ids"]
        text = rows != self.pad_id if self.filled else np.ones(rows.shape, dtype=bool)
        labels = np.where(text, rows, np.int32(NOT_SCORED))
        if self.settings.permute_sentences:
            rows = self._permuted(rows, text, samples, seed)
        ids, length = self._infilled(rows, text & ~self.ids.special[rows], text, samples, seed)
        mask = (np.arange(rows.shape[1]) < length[:, None]).astype(np.int32)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def _permuted(self, rows: np.ndarray, text: np.ndarray, samples: np.ndarray, seed: int) -> np.ndarray:
        """Each document's sentences in a random order; special tokens and padding stay where they are."""
        fixed = self.ids.special[rows] | ~text
        first = np.ones(rows.shape, dtype=bool)  # of a sentence, or fixed
        first[:, 1:] = self.ids.ends[rows][:, :-1] | fixed[:, 1:] | fixed[:, :-1]
        place = np.arange(rows.shape[1])
        begin = np.maximum.accumulate(np.where(first, place, 0), axis=1)
        drawn = np.take_along_axis(draws.bits(seed, samples, rows.shape[1], ORDER), begin, axis=1)
        # What lies between two fixed tokens keeps its part of the row: the high bits of a number say which part, the low
        # ones where the token stood, so that one sort of numbers gives the order.
        parts = (2 * fixed.cumsum(axis=1) - fixed).astype(np.uint64)
        bits = rows.shape[1].bit_length()
        low, high, used = np.uint64(bits), np.uint64(63 - bits), np.uint64(2 * bits + 1)
        keys = np.sort((parts << high) | ((drawn >> used) << low) | place.astype(np.uint64), axis=1)
        order = (keys & ((np.uint64(1) << low) - np.uint64(1))).astype(np.int64)
        return np.take_along_axis(rows, order, axis=1)

    def _infilled(
        self, rows: np.ndarray, may: np.ndarray, text: np.ndarray, samples: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows with mask tokens for spans, int32 (n, seq), and how long each is now, int64 (n,)."""
        there = may.sum(axis=1)
        lengths, used = self._lengths(there, samples, seed)
        begins = _placed(there, lengths, used, samples, seed)
        hidden, opens, before = _spans(may, there, lengths, used, begins)
        # A special token within a span sets what follows apart.
        opens |= hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
        # A row that grows gives up mask tokens that stand for nothing, the last first.
        room = (hidden.sum(axis=1) - opens.sum(axis=1))[:, None] + (~text).sum(axis=1)[:, None]
        before = np.minimum(before.cumsum(axis=1), room)  # (n, seq + 1): mask tokens put in, up to each place
        shown = text & ~hidden
        # Mask tokens everywhere, then the shown tokens, each behind all that stands before it.
        place = shown.cumsum(axis=1) - 1 + opens.cumsum(axis=1) + before[:, :-1]
        length = shown.sum(axis=1) + opens.sum(axis=1) + before[:, -1]
        ids = np.full(rows.shape, self.pad_id, dtype=np.int32)
        ids[np.arange(rows.shape[1]) < length[:, None]] = self.ids.mask_id
        row = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
        ids[row[shown], place[shown]] = rows[shown]
        return ids, length

    def _lengths(self, there: np.ndarray, samples: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of spans in the order they stand, int64 (n, spans), and which of them are used, bool."""
        mean = self.settings.mean_span
        wanted = np.minimum(np.maximum(np.floor(self.settings.mask_fraction * there + 0.5), 1), there).astype(np.int64)
        most = int(wanted.max(initial=1))
        # Enough but for one row in many millions, of which less would be hidden.
        count = math.ceil(most / mean + 8 * math.sqrt(most / mean)) + 32
        uniform = (draws.bits(seed, samples, count, LENGTHS) >> np.uint64(11)) * 2.0**-53
        lengths = np.searchsorted(_poisson(mean), uniform, side="right")
        before = lengths.cumsum(axis=1) - lengths
        return np.minimum(lengths, np.maximum(wanted[:, None] - before, 0)), before < wanted[:, None]


def _poisson(mean: float) -> np.ndarray:
    """The probabilities of at most 0, 1, ... float64, up to where they reach 1."""
    count = math.ceil(mean + 12 * math.sqrt(mean)) + 12
    return np.cumsum([math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count)])


def _placed(there: np.ndarray, lengths: np.ndarray, used: np.ndarray, samples: np.ndarray, seed: int) -> np.ndarray:
    """Before which of the tokens that may be hidden each span begins: int64 (n, spans).

    Spans and shown tokens stand in a row of `slots`; which of them are spans is drawn, each choice equally likely.
    """
    spans = used.sum(axis=1, keepdims=True)  # (n, 1)
    slots = there[:, None] - lengths.sum(axis=1, keepdims=True) + spans
    most = int(slots.max(initial=1))
    drawn = draws.bits(seed, samples, most, PLACES)
    drawn = np.where(np.arange(most) < slots, drawn, NEVER)
    edge = np.take_along_axis(np.sort(drawn, axis=1), np.maximum(spans - 1, 0), axis=1)
    chosen = (drawn <= edge) & (spans > 0) & (np.arange(most) < slots)
    found = np.zeros(lengths.shape, dtype=np.int64)
    row, slot = np.nonzero(chosen)
    number = (chosen.cumsum(axis=1) - 1)[row, slot]
    found[row, number] = slot - number  # shown tokens before it
    return found + lengths.cumsum(axis=1) - lengths


def _spans(
    may: np.ndarray, there: np.ndarray, lengths: np.ndarray, used: np.ndarray, begins: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What spans make of each place of the row, all (n, seq): hidden, first of a span, and, int64 (n, seq + 1), how many
    spans of length 0 stand before it."""
    rows, width = may.shape
    order = np.argsort(~may, axis=1, kind="stable")  # (n, seq): where in the row those stand that may be hidden
    row, number = np.nonzero(used)
    begin, length = begins[row, number], lengths[row, number]
    filled = length > 0
    change = np.zeros((rows, width + 1), dtype=np.int64)
    np.add.at(change, (row[filled], begin[filled]), 1)
    np.add.at(change, (row[filled], begin[filled] + length[filled]), -1)
    covered = change[:, :-1].cumsum(axis=1) > 0  # over the tokens that may be hidden
    hidden, opens = np.zeros_like(may), np.zeros_like(may)
    np.put_along_axis(hidden, order, covered, axis=1)
    opens[row[filled], order[row[filled], begin[filled]]] = True
    before = np.zeros((rows, width + 1), dtype=np.int64)
    row, begin = row[~filled], begin[~filled]
    behind = begin == there[row]  # all of them
    np.add.at(before, (row, order[row, begin - behind] + behind), 1)
    return hidden & may, opens, before
