"""A smaller model out of a model and what stays of it: weights are selected, never changed, and those that were tied stay tied."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from manta.compress import copied
from manta.compress.pruning import anatomy
from manta.compress.pruning.anatomy import FUSED, HIDDEN, INTERMEDIATE, KEYS, QUERIES, VOCABULARY, Anatomy, Sizes

Kept = Mapping[str, Any]  # axis -> int64 (channels that stay,), ascending; an axis that is not named stays whole


class Loaded(NamedTuple):
    """A model in float32 on the CPU, and the dtype that its weights have on storage."""

    model: Any
    dtype: Any
    anatomy: Anatomy

    @property
    def sizes(self) -> Sizes:
        return anatomy.sizes(self.model.config.to_dict(), self.anatomy)


def load(source: Path, setting: str) -> Loaded:
    """The class that the Hugging Face directory itself names, head and all. Raises InputError as `anatomy.of` does."""
    from manta.models import classes
    from manta.models.load import model_config

    config = model_config(str(source))
    found = anatomy.of(config, setting)
    model = classes.named(config).from_pretrained(source, dtype="auto", local_files_only=True)
    dtype = model.dtype
    return Loaded(model.float().eval(), dtype, found)


def blocks(loaded: Loaded) -> Any:
    """The model's blocks, a ModuleList."""
    return loaded.model.base_model.get_submodule(loaded.anatomy.blocks)


def leave_out(loaded: Loaded, removed: set[int]) -> None:
    """Take blocks out of the model where it stands."""
    import torch

    body, (parent, _, name) = loaded.model.base_model, loaded.anatomy.blocks.rpartition(".")
    kept = [number for number in range(len(blocks(loaded))) if number not in removed]
    setattr(body.get_submodule(parent), name, torch.nn.ModuleList(blocks(loaded)[number] for number in kept))
    config = loaded.model.config
    setattr(config, loaded.anatomy.keys["layers"], len(kept))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number] for number in kept]


def cut(loaded: Loaded, everywhere: Kept, each: Sequence[Kept]) -> Loaded:
    """The model with the channels that stay: those of `everywhere` (hidden, vocabulary) and, block by block, of `each`."""
    import torch

    model, found, old = loaded.model, loaded.anatomy, loaded.sizes
    state = {}
    for name, tensor in model.state_dict().items():
        block, rest = anatomy.place(name, model.base_model_prefix, found)
        stays = everywhere if block is None else {**everywhere, **_fused(each[block], old)}
        for dim, axis in enumerate(anatomy.axes(rest, block is not None, found)):
            if axis in stays:
                tensor = tensor.index_select(dim, stays[axis])
        state[name] = tensor.clone()
    config = copy.deepcopy(model.config)
    for key, value in _changed(found, old, everywhere, each[0] if each else {}).items():
        setattr(config, key, value)
    with torch.device("meta"):
        fresh = type(model)._from_config(config, dtype=torch.float32)
    fresh.load_state_dict(state, assign=True)
    fresh.tie_weights()
    buffers = dict(model.named_buffers())  # positions and angles: they do not depend on what is cut
    for name, _ in list(fresh.named_buffers()):
        parent, _, leaf = name.rpartition(".")
        fresh.get_submodule(parent)._buffers[leaf] = buffers[name]
    return Loaded(fresh.eval(), loaded.dtype, found)


def _fused(kept: Kept, old: Sizes) -> dict[str, Any]:
    """With the channels of queries, keys and values that stand behind each other in one layer."""
    import torch

    if QUERIES not in kept:
        return dict(kept)
    parts = [kept[QUERIES] + part * old.heads * old.head_dim for part in range(3)]
    return {**kept, FUSED: torch.cat(parts)}


def _changed(found: Anatomy, old: Sizes, everywhere: Kept, block: Kept) -> dict[str, Any]:
    """What config.json has to say of the new sizes."""
    keys, changes = found.keys, {}
    if VOCABULARY in everywhere:
        changes["vocab_size"] = len(everywhere[VOCABULARY])
    if HIDDEN in everywhere:
        changes[keys["hidden"]] = len(everywhere[HIDDEN])
    if INTERMEDIATE in block:
        changes[keys["intermediate"]] = len(block[INTERMEDIATE])
    elif HIDDEN in everywhere:
        changes[keys["intermediate"]] = old.intermediate  # some types derive it where it is not said
    if QUERIES in block:
        changes[keys["heads"]] = len(block[QUERIES]) // old.head_dim
    if KEYS in block and "groups" in keys:
        changes[keys["groups"]] = len(block[KEYS]) // old.head_dim
    if found.own_head_dim and (QUERIES in block or HIDDEN in everywhere):
        changes["head_dim"] = old.head_dim
    return changes


def save(loaded: Loaded, source: Path, target: Path) -> None:
    """Write the model in its own dtype into the existing folder `target`, with the files that `source` has beside its weights."""
    model = loaded.model.to(loaded.dtype)
    model.config.dtype = loaded.dtype
    model.save_pretrained(target)
    copied.copy(source, target)
