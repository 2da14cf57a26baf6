"""Post-training quantisation. Writes compressed-tensors checkpoints, which vLLM and Transformers load.

What is quantised are the linear layers of the blocks. Embeddings, norms and the output head keep their precision: the
head decides between near-equal words, and where it is tied to the embeddings they are one table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.compress import copied
from manta.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from manta.compress.quantising.layers import Way
    from manta.compress.quantising.schemes import Scheme
    from manta.sections.quantise import Quantise

Report = Callable[[int, int], None]  # called with (blocks done, blocks)

# algorithm -> how weights are rounded, once scales have been moved
ROUNDING = {"rtn": "nearest", "gptq": "gptq", "awq": "nearest"}


def describe(settings: Quantise) -> str:
    """What is about to be done, in a few words."""
    what = (
        settings.scheme if settings.mixed is None else f"a scheme for each layer within {settings.mixed.size_ratio:g}"
    )
    strength = settings.smoothquant
    first = "" if strength is None else f" after smoothquant {strength if strength == 'search' else f'{strength:g}'}"
    cache = ", fp8 keys and values" if settings.kv_cache else ""
    return f"{what} by {settings.algorithm}{first}{cache}; embeddings and output head keep their precision"


def apply(source: Path, target: Path, settings: Quantise, rows: np.ndarray | None, report: Report) -> dict[str, Any]:
    """Quantise the model in the Hugging Face directory `source` into the existing, empty folder `target`.

    `rows` is (samples, seq_len) int32, -1 where a row has ended, or None where `settings.reads_rows` is false. One block at
    a time is in memory, in float32; what is not quantised keeps the dtype it has in `source`. Returns the scheme and the algorithm,
    and of a mixed one how many layers have which. Raises InputError for a model whose layers the scheme does not fit.
    """
    import torch

    from manta.compress import calibration
    from manta.compress.quantising import blocks, cache, checkpoint, layers, memory, sensitivity

    model = _load(source)
    batches = [] if rows is None else calibration.batches(rows)
    if settings.mixed is None:
        schemes = uniform(model, settings)
    else:
        schemes = sensitivity.choose(model, batches, settings.mixed, settings.group_size)
    cached = cache.scales(model, batches) if settings.kv_cache else {}
    with checkpoint.opened(model, schemes, cached, source, target) as opened:
        if settings.algorithm == "rtn" and settings.smoothquant is None:
            layers.without_rows(model, schemes, opened)
        else:
            with torch.inference_mode():
                chunks = blocks.begin(model, batches)
            for parameter in model.parameters():  # read so far: embeddings, and all where layers were measured
                memory.release(parameter.data)
            layers.with_rows(model, chunks, schemes, way(settings), opened, report)
    copied.copy(source, target)
    figures: dict[str, Any] = {"scheme": settings.scheme, "algorithm": settings.algorithm}
    if settings.mixed is not None:
        figures["scheme"] = "mixed"
        figures["layers"] = sensitivity.counted(model, schemes)
    return figures


def _load(source: Path) -> Any:
    """The model in bfloat16 if that is what its files hold, else in float32."""
    import torch
    from transformers import AutoConfig

    from manta.models.load import load

    stored = AutoConfig.from_pretrained(source, local_files_only=True).dtype
    return load(source, "bf16" if stored is torch.bfloat16 else "fp32").eval()


def uniform(model: Any, settings: Quantise) -> dict[str, Scheme]:
    """Full name -> scheme, the same for all linear layers of the blocks. Raises InputError for one that it does not fit."""
    from manta.compress.quantising import blocks
    from manta.compress.quantising.schemes import SCHEMES

    found = {}
    for name, layer in blocks.names(model):
        try:
            found[name] = SCHEMES[settings.scheme](layer.in_features, settings.group_size)
        except ValueError as error:
            raise InputError(
                f"compress.quantise.group_size = {settings.group_size}: {name}: {error}: "
                "set compress.quantise.group_size to an even divisor, or compress.quantise.scheme=w8a8"
            ) from None
    return found


def way(settings: Quantise) -> Way:
    """How the layers are quantised, in the terms of the arithmetic."""
    from manta.compress.quantising import scaling
    from manta.compress.quantising.layers import Way

    scales: tuple[scaling.Candidate, ...] = ()
    if settings.algorithm == "awq":
        scales = scaling.SEARCHED_AWQ
    elif settings.smoothquant == "search":
        scales = scaling.SEARCHED_SMOOTHQUANT
    elif settings.smoothquant is not None:
        scales = ((scaling.smoothquant, settings.smoothquant),)
    return Way(ROUNDING[settings.algorithm], scales)
