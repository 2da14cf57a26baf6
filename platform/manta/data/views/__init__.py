"""Views: what a shard stores turned into what a step trains on, drawn anew for each sample."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from manta.data.shards import Index
from manta.data.views import words
from manta.data.views.infilling import Infilled
from manta.data.views.masking import Masked
from manta.data.views.spans import Corrupted
from manta.errors import InputError
from manta.sections.objective import Denoising, Infilling, Masking, MultiMlm, Nsp, Objective
from manta.storage import Folder

__all__ = ["View", "of"]

ENCODER = ("input_ids", "position_ids", "token_type_ids", "attention_mask")


class View(Protocol):
    """A pure function of (columns, seed, global sample index): the next epoch differs, a resumed run repeats itself.

    Takes `columns_in`, int32 (n, width) or (n,), and `samples`, int64 (n,); returns `columns_out`, int32. It can be
    pickled: tasks carry it along.
    """

    @property
    def columns_in(self) -> tuple[str, ...]: ...

    @property
    def columns_out(self) -> tuple[str, ...]: ...

    def __call__(self, columns: dict[str, np.ndarray], samples: np.ndarray, seed: int) -> dict[str, np.ndarray]: ...


def of(objective: Objective, index: Index, tokenizer: Folder) -> View | None:
    """The view of an objective over shards; None where a step trains on what is stored.

    `tokenizer` is the folder of the shards' tokenizer.json. Raises InputError where the tokenizer has no mask token, or
    the shards' rows are not what the objective needs.
    """
    if isinstance(objective, Masking):
        return _masked(objective, index, tokenizer)
    if not isinstance(objective, Denoising):
        return None
    if isinstance(objective.method, Infilling):
        return _infilled(objective.method, index, tokenizer)
    if index.noise is None:
        raise InputError(
            "objective.method.kind = 'spans': the rows of these shards are not made for hidden spans: prepare them with "
            "data.layout.kind=denoising, or set objective.method.kind=infilling"
        )
    return Corrupted(index.noise)


def _masked(objective: Masking, index: Index, tokenizer: Folder) -> Masked:
    known = _known(objective, index, tokenizer)
    stored = tuple(name for name in ENCODER if name in index.columns)
    if isinstance(objective, Nsp):
        if "next_sentence_label" not in index.columns:
            raise InputError(
                "objective.name = 'nsp': the rows of these shards are no pairs: prepare them with data.layout.kind=sentence_pairs"
            )
        stored += ("next_sentence_label",)
    # Padding is told by positions or a mask, or else by its token.
    padded = index.layout == "best_fit" and "position_ids" not in stored and index.pad_id != index.eos_id
    made = ("attention_mask",) if padded and index.pad_id is not None else ()
    several = isinstance(objective, MultiMlm)
    labels = ("labels", "predecessor_labels") if several else ("labels",)
    return Masked(
        columns_in=stored,
        columns_out=(*stored, *made, *labels),
        settings=objective,
        ids=known,
        least=2 if several else 1,
        predecessors=several,
        pad_id=index.pad_id if made else None,
    )


def _infilled(settings: Infilling, index: Index, tokenizer: Folder) -> Infilled:
    if "position_ids" in index.columns:
        raise InputError(
            "objective.method.kind = 'infilling': the documents of these rows are not to see each other, but models with an encoder "
            "and a decoder cannot keep them apart: prepare the shards with data.layout.isolate=false"
        )
    known = _known(settings, index, tokenizer)
    pad_id = index.eos_id if index.pad_id is None else index.pad_id
    return Infilled(
        columns_in=("input_ids",),
        columns_out=("input_ids", "attention_mask", "labels"),
        settings=settings,
        ids=known,
        pad_id=pad_id,
        filled=index.layout == "best_fit" and pad_id != index.eos_id,
    )


def _known(settings: Masking | Infilling, index: Index, tokenizer: Folder) -> words.Ids:
    known = words.read(tokenizer, index.vocab_size)
    if known.mask_id is None:
        raise InputError(
            f"objective hides {settings.mask_fraction:g} of the tokens, but the tokenizer of these shards has no mask token: prepare them "
            "with tokenizer.type=wordpiece, or with tokenizer.special_tokens=[<mask>]"
        )
    return known
