"""Several conversations in a row, each by itself: less padding, the same loss of every conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from manta.errors import InputError
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.tasks import ANSWERING
from manta.tasks.encoding.conversation import IGNORED, Encoded

# Types of models that keep attention within a conversation where positions begin anew: tests/tasks/test_packed.py tries
# each of them. Others read positions too, but may look across.
APART = ("llama", "gpt2", "lstm", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "smollm3")
PADDED = {"labels": IGNORED, "position_ids": 0}  # each place that fills a row up is a document of its own


class Packed(NamedTuple):
    """Conversations one after the other, as token ids, labels and positions of equal length."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]  # from 0 in each of them

    @property
    def columns(self) -> dict[str, list[int]]:
        """What is stored of it."""
        return self._asdict()


def check(recipe: FinetuneRecipe, model: Folder | None) -> None:
    """Raise InputError where conversations cannot share rows. `model` is the Hugging Face directory, once there is one."""
    if not recipe.batch.packing:
        return
    if recipe.task.name not in ANSWERING:
        raise InputError(
            f"batch.packing = True: rows of task.name = {recipe.task.name!r} are not conversations, and each is scored by itself: set "
            "batch.packing=false (batch.grouping=length saves padding as well)"
        )
    if recipe.adapt.method in ("prefix", "prompt"):
        raise InputError(
            f"batch.packing = True: what adapt.method = {recipe.adapt.method!r} learns stands before the first conversation of a row "
            "alone: set batch.packing=false, or adapt.method=lora"
        )
    kind = json.loads(model.read_text("config.json"))["model_type"] if model is not None else None
    if kind is not None and kind not in APART:
        raise InputError(
            f"batch.packing = True: conversations in a row are known to be kept apart by models of type {', '.join(APART)}, and "
            f"model.source = {recipe.model.source!r} is of type {kind!r}: set batch.packing=false"
        )


def pack(rows: Sequence[Encoded], capacity: int) -> list[Packed]:
    """Rows of up to `capacity` tokens by best-fit decreasing (`data.layouts.best_fit`): every conversation stands whole in one.

    A function of the conversations' lengths and order alone. None is longer than `capacity`.
    """
    from manta.data.layouts import best_fit

    bins = best_fit.assign([len(row.input_ids) for row in rows], capacity)
    return [_joined([rows[number] for number in members]) for members in bins]


def told(packed: Mapping[str, Sequence[Packed]], encoded: Mapping[str, Sequence[Any]], seq_len: int) -> str:
    """What packing came to, in a sentence."""
    train = packed["train"]
    used = sum(len(row.input_ids) for row in train) / (len(train) * seq_len)
    return f"{len(encoded['train']):,} conversations share {len(train):,} rows of {seq_len} tokens, {used:.1%} of which they fill"


def _joined(members: Sequence[Encoded]) -> Packed:
    return Packed(
        [token for row in members for token in row.input_ids],
        [label for row in members for label in row.labels],
        [position for row in members for position in range(len(row.input_ids))],
    )
