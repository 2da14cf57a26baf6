"""The view of masked language modelling: which tokens of a row are hidden, and what the model sees instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manta.data import draws
from manta.data.views.words import Ids
from manta.sections.objective import Masking

NOT_SCORED = -100
# Draws of their own, each independent of the others and of those of the other views.
CHOICE, RUNS, ROLES = 16, 17, 18
NEVER = np.uint64(2**64 - 1)
HALF = np.uint64(32)
LOW = np.uint64(2**32 - 1)


@dataclass(frozen=True, eq=False)
class Masked:
    """Hides tokens of each row: a pure function of (seed, global sample index).

    In: `input_ids` int32 (n, seq) and, where the shards have them, `position_ids`, `token_type_ids` and
    `attention_mask` of the same shape; further columns are passed on. Out: the same, what is hidden replaced, and
    `labels`, int32 (n, seq): the token that stood there where it is to be predicted, else -100. With `predecessors`
    also `predecessor_labels`: at each of these places the token before it, -100 where that is none of the document's text.

    Special tokens and padding are never hidden. To be predicted are round(mask_fraction * (tokens that may be hidden)),
    at least `least`: exactly so many tokens, the last span cut to fit; of whole words as many as come nearest to it,
    at least one.
    """

    columns_in: tuple[str, ...]
    columns_out: tuple[str, ...]
    settings: Masking
    ids: Ids
    least: int = 1
    predecessors: bool = False
    pad_id: int | None = None  # rows end in padding that no column tells of: an `attention_mask` is made

    def __call__(self, columns: dict[str, np.ndarray], samples: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        ids = columns["input_ids"]
        out = dict(columns)
        if self.pad_id is not None:
            out["attention_mask"] = (ids != self.pad_id).astype(np.int32)
        may = ~self.ids.special[ids]  # (n, seq)
        if "attention_mask" in out:
            may &= out["attention_mask"] != 0
        begins = columns["position_ids"] == 0 if "position_ids" in columns else np.zeros_like(may)
        begins[:, 0] = True  # of a document, or the rest of one
        hidden = self._hidden(ids, may, begins, samples, seed)
        out["labels"] = np.where(hidden, ids, np.int32(NOT_SCORED))
        if self.predecessors:
            out["predecessor_labels"] = _predecessors(ids, may, hidden & ~begins)
        out["input_ids"] = self._shown(ids, hidden, samples, seed)
        return {name: out[name] for name in self.columns_out}

    def _hidden(
        self, ids: np.ndarray, may: np.ndarray, begins: np.ndarray, samples: np.ndarray, seed: int
    ) -> np.ndarray:
        """Which tokens are to be predicted: bool (n, seq).

        Each unit (token, word or run) draws a number; those with the lowest are taken until there are enough tokens.
        """
        drawn = draws.bits(seed, samples, ids.shape[1], CHOICE)
        if self.settings.unit != "token":
            joined = self._joined(ids, samples, seed) & ~begins
            joined[:, 1:] &= may[:, :-1]  # what may not be hidden ends a unit
            place = np.where(joined, 0, np.arange(ids.shape[1]))
            drawn = np.take_along_axis(drawn, np.maximum.accumulate(place, axis=1), axis=1)
        drawn = np.where(may, drawn, NEVER)
        there = may.sum(axis=1)
        wanted = np.minimum(np.maximum(np.floor(self.settings.mask_fraction * there + 0.5), self.least), there)
        wanted = wanted.astype(np.int64)[:, None]  # (n, 1)
        # The number of the unit with which there are enough.
        edge = np.take_along_axis(np.sort(drawn, axis=1), np.maximum(wanted - 1, 0), axis=1)
        below, last = drawn < edge, (drawn == edge) & may
        missing = wanted - below.sum(axis=1, keepdims=True)
        size = last.sum(axis=1, keepdims=True)
        if self.settings.unit == "whole_word":
            return below | (last & ((2 * missing >= size) | (missing == wanted)))
        # A part of it, from any of its tokens on. The low bits of a number say nothing of how low it is.
        ways = np.maximum(size - missing + 1, 1).astype(np.uint64)
        first = (((edge & LOW) * ways) >> HALF).astype(np.int64)
        place = last.cumsum(axis=1) - 1
        return below | (last & (place >= first) & (place < first + missing))

    def _joined(self, ids: np.ndarray, samples: np.ndarray, seed: int) -> np.ndarray:
        """Which tokens belong to the unit of the token before them: bool (n, seq)."""
        if self.settings.unit == "whole_word":
            return self.ids.continues[ids]
        # Runs of geometric length: one goes on with the same probability after each token.
        going_on = min(int((1.0 - 1.0 / self.settings.span) * 2.0**64), 2**64 - 1)
        return draws.bits(seed, samples, ids.shape[1], RUNS) < np.uint64(going_on)

    def _shown(self, ids: np.ndarray, hidden: np.ndarray, samples: np.ndarray, seed: int) -> np.ndarray:
        """What the model reads: of the tokens to predict most are the mask token, some any other, some themselves."""
        drawn = draws.bits(seed, samples, ids.shape[1], ROLES)[hidden]
        role, which = drawn >> HALF, drawn & LOW
        any_token = self.ids.ordinary[(which * np.uint64(len(self.ids.ordinary))) >> HALF]
        to_mask = self.settings.replaced_by_mask * 2.0**32
        to_random = to_mask + self.settings.replaced_by_random * 2.0**32
        found = np.where(role < to_random, any_token, ids[hidden])
        shown = ids.copy()
        shown[hidden] = np.where(role < to_mask, np.int32(self.ids.mask_id), found)
        return shown


def _predecessors(ids: np.ndarray, may: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The token before each of `wanted`, where it is text: int32 (n, seq)."""
    labels = np.full_like(ids, NOT_SCORED)
    known = wanted[:, 1:] & may[:, :-1]
    labels[:, 1:][known] = ids[:, :-1][known]
    return labels
