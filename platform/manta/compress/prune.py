"""Smaller dense models out of larger ones: blocks and channels go, and what is left is a model of the same type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.compress.pruning import anatomy
from manta.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from manta.compress.pruning.anatomy import Anatomy, Sizes
    from manta.compress.pruning.width import Wanted
    from manta.sections.prune import Prune
    from manta.storage import Folder

SETTING = "compress.prune"
PREDICTS = ("ForCausalLM", "LMHeadModel")  # how the names of classes end that predict the next token

Report = Callable[[int, int], None]  # called with (steps done, steps)


def describe(settings: Prune) -> str:
    """What is about to be done, in a few words."""
    said = []
    if settings.layers is not None:
        said.append(f"{settings.layers:.0%} of the blocks by {settings.depth}")
    for name in ("intermediate", "heads", "hidden"):
        share = getattr(settings, name)
        if share is not None:
            said.append(f"{share:.0%} of {'the heads' if name == 'heads' else f'the {name} size'} by activation")
    words = [f"prune {', '.join(said)}"] if said else []
    if settings.sparsity is not None:
        zeros = settings.sparsity
        words.append(
            f"set {zeros.share:.0%} of the weights to zero by {zeros.method} ({zeros.pattern}), a study mode: "
            "vLLM gains neither speed nor memory from it"
        )
    return " and ".join(words)


def check(settings: Prune, config: Mapping[str, Any], folder: Folder) -> None:
    """Raise InputError for a type of model that cannot be cut, and for shares that come to nothing or to all of it."""
    del folder
    found = anatomy.of(config, SETTING)
    old = anatomy.sizes(config, found)
    wanted(settings, old, found)
    if settings.layers is not None:
        num_removed(settings.layers, old.layers)
        predicts = any(name.endswith(PREDICTS) for name in config.get("architectures") or ())
        if settings.depth == "loss" and not predicts:
            raise InputError(
                f"{SETTING}.depth = 'loss' is the loss of the next token, which {config.get('architectures')} does not predict: "
                f"set {SETTING}.depth=influence"
            )
    zeros = settings.sparsity
    if zeros is not None and zeros.pattern == "2:4":
        widths = wanted(settings, old, found)
        for size in (widths.intermediate or old.intermediate, widths.hidden or old.hidden, old.heads * old.head_dim):
            if size % 4:
                raise InputError(
                    f"{SETTING}.sparsity.pattern = '2:4': a width of the model is {size}, no multiple of 4: set "
                    f"{SETTING}.sparsity.pattern=unstructured"
                )


def num_removed(share: float, layers: int) -> int:
    """How many of the blocks go: the nearest number, at least one, and never all. Raises InputError where that is none."""
    count = round(share * layers)
    if not 0 < count < layers:
        raise InputError(
            f"{SETTING}.layers = {share:g} of {layers} blocks takes {'none' if not count else 'all'}: set "
            f"{SETTING}.layers={1 / layers if not count else (layers - 1) / layers:.4g}, or leave it out"
        )
    return count


def wanted(settings: Prune, old: Sizes, found: Anatomy) -> Wanted:
    """The sizes that stay, rounded: heads to whole groups, widths to multiples. Raises InputError where nothing goes."""
    from manta.compress.pruning.width import Wanted

    groups = hidden = intermediate = None
    if settings.heads is not None:
        groups = max(1, round((1 - settings.heads) * old.groups))
        if groups == old.groups:
            shared = f" of {old.heads // old.groups} heads that share keys" if old.heads != old.groups else ""
            raise InputError(
                f"{SETTING}.heads = {settings.heads:g} takes none of {old.groups} groups{shared}, which go whole: set "
                f"{SETTING}.heads={1 / old.groups:.4g} or more, or leave it out"
            )
    if settings.intermediate is not None:
        intermediate = _width("intermediate", settings.intermediate, old.intermediate, settings.multiple)
    if found.own_head_dim:
        if settings.hidden is not None:
            hidden = _width("hidden", settings.hidden, old.hidden, settings.multiple)
    elif settings.heads != settings.hidden:
        raise InputError(
            f"{SETTING}.heads = {settings.heads} and {SETTING}.hidden = {settings.hidden}: in models of this type a head is "
            f"hidden size / heads wide, so both go together: set both to {settings.heads or settings.hidden:g}, or neither"
        )
    elif groups is not None:
        hidden = groups * old.head_dim
    return Wanted(intermediate, groups, hidden)


def _width(name: str, share: float, size: int, multiple: int) -> int:
    stays = max(1, round((1 - share) * size / multiple)) * multiple
    if stays >= size:
        raise InputError(
            f"{SETTING}.{name} = {share:g} of {size} leaves {stays} as a multiple of {multiple}: raise {SETTING}.{name}, or lower "
            f"{SETTING}.multiple"
        )
    return stays


def apply(source: Path, target: Path, settings: Prune, rows: np.ndarray | None, report: Report) -> dict[str, Any]:
    """Prune the model in the Hugging Face directory `source` into the existing, empty folder `target`.

    Blocks go first; then channels are chosen and the others refitted, block by block; then hidden channels; zeros come
    last. `rows` is (samples, seq_len) int32, or None where `settings.reads_rows` is false. The arithmetic is float32,
    the weights keep their dtype. Returns the sizes and which blocks went. Raises InputError as `check` does.
    """
    import torch

    from manta.compress import calibration
    from manta.compress.pruning import cutting, depth, sparsity, width
    from manta.models.load import model_config
    from manta.storage import Folder

    rows = None if rows is None else calibration.dense(rows)
    check(settings, model_config(str(source)), Folder(source))
    loaded = cutting.load(source, SETTING)
    figures: dict[str, Any] = {}
    with torch.no_grad():
        if settings.layers is not None:
            assert rows is not None
            count = num_removed(settings.layers, loaded.sizes.layers)
            removed = depth.DEPTHS[settings.depth](loaded, rows, count, report)
            cutting.leave_out(loaded, set(removed))
            figures |= {"layers": loaded.sizes.layers, "layers_removed": removed}
        sizes = wanted(settings, loaded.sizes, loaded.anatomy)
        if sizes != width.Wanted(None, None, None):
            assert rows is not None
            everywhere, each = width.choose(loaded, rows, sizes, settings.refit, report)
            loaded = cutting.cut(loaded, everywhere, each)
            figures |= _told(loaded.sizes, sizes)
        if settings.sparsity is not None:
            figures["sparsity"] = round(sparsity.apply(loaded, rows, settings.sparsity, report), 4)
            figures["sparsity_gain"] = sparsity.NO_GAIN
    cutting.save(loaded, source, target)
    return figures


def _told(new: Sizes, sizes: Wanted) -> dict[str, Any]:
    """The sizes that changed, after their rounding."""
    figures = {}
    if sizes.intermediate is not None:
        figures["intermediate_size"] = new.intermediate
    if sizes.groups is not None:
        figures |= {"num_heads": new.heads, "num_kv_heads": new.groups}
    if sizes.hidden is not None:
        figures["hidden_size"] = new.hidden
    return figures
