"""The rows that compression looks at: chosen by seed from what the model was trained on, never tokenised again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.data.sample import sample_rows
from manta.data.shards import LENGTH, load_index
from manta.errors import InputError
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

    from manta.sections.compress import Calibration

SPLIT = "train"
# Rows of one forward pass: enough to use the CPU's vector units, few enough to keep activations small.
BATCH = 4
ENDED = -1  # in the place of a token: the row has ended before
# Of `samples: auto`: first so many rows, at most so many, and the change at which doubling them ends.
FIRST, MOST, CHANGE = 16, 512, 0.05


def check(settings: Calibration, shards: str, positions: int | None) -> None:
    """Raise InputError if the shards cannot give the rows asked for, or the model has fewer `positions`."""
    index = load_index(shards)
    wanted = FIRST if settings.samples == "auto" else settings.samples
    if wanted > index.rows(SPLIT):
        raise InputError(
            f"compress.calibration.samples = {settings.samples}: {shards} has {index.rows(SPLIT)} training rows: "
            f"set compress.calibration.samples={index.rows(SPLIT)} or prepare more text"
        )
    if settings.seq_len > index.seq_len and not index.padded:
        raise InputError(
            f"compress.calibration.seq_len = {settings.seq_len}: the rows of {shards} have {index.seq_len} tokens: "
            f"set compress.calibration.seq_len={index.seq_len}"
        )
    if positions is not None and settings.seq_len > positions:
        raise InputError(
            f"compress.calibration.seq_len = {settings.seq_len}: the model takes {positions} tokens: "
            f"set compress.calibration.seq_len={positions}"
        )


def rows(settings: Calibration, shards: str, seed: int) -> np.ndarray:
    """The calibration rows: (samples, seq_len) int32, each the beginning of a training row, ENDED behind the end of a
    padded one. Of `samples: auto` as many as may be looked at, see `enough`."""
    import numpy as np

    wanted = MOST if settings.samples == "auto" else settings.samples
    folder = Folder(shards)
    found = sample_rows(folder, SPLIT, wanted, seed)
    if load_index(folder).padded:
        lengths = sample_rows(folder, SPLIT, wanted, seed, LENGTH).reshape(len(found), 1)
        found = np.where(np.arange(found.shape[1])[None, :] < lengths, found, np.int32(ENDED))
    return found[:, : settings.seq_len]


def batches(sample: np.ndarray) -> list[dict[str, Any]]:
    """The rows, a few at a time and in order: input_ids (batch, seq) int64 and, where some have ended, attention_mask."""
    import torch

    made = []
    for tokens in torch.from_numpy(sample).long().split(BATCH):
        real = tokens != ENDED
        width = int(real.sum(1).max())
        batch = {"input_ids": tokens.clamp(min=0)[:, :width]}
        if not bool(real[:, :width].all()):
            batch["attention_mask"] = real[:, :width].long()
        made.append(batch)
    return made


def dense(sample: np.ndarray) -> np.ndarray:
    """The same tokens in rows none of which ends before its end, (rows, seq) int32: one after the other, the rest left out.

    For what looks at every place of a row. Rows that never end early are given back as they are.
    """
    if (sample != ENDED).all():
        return sample
    real, width = sample[sample != ENDED], sample.shape[1]
    if len(real) < width:
        return real[None, :]
    return real[: len(real) // width * width].reshape(-1, width)


def enough(folder: Path, sample: np.ndarray) -> int:
    """How many of the rows, FIRST doubled as often as it takes, until twice as many change what linear layers read by less
    than CHANGE: the mean square of each of their inputs, summed over the absolute changes, as a share of all.

    `folder` is the model's. Where the rows do not suffice, all of them.
    """
    import torch

    from manta.compress.quantising import blocks, memory
    from manta.models.load import load

    model = load(folder, "bf16" if blocks.fast_dtype() is torch.bfloat16 else "fp32").eval()
    try:
        return _enough(model, sample)
    finally:  # Python may collect the model long after it is loaded once more
        for parameter in model.parameters():
            memory.release(parameter.data)


def _enough(model: Any, sample: np.ndarray) -> int:
    import torch

    sums: dict[str, torch.Tensor] = {}
    real: list[torch.Tensor | None] = [None]

    def watch(name: str) -> Any:
        def add(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            del module
            seen = args[0] if real[0] is None else args[0][real[0]]
            sums[name] = sums.get(name, 0) + seen.float().square().flatten(0, -2).sum(0)

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(watch(name))
    before: dict[str, torch.Tensor] = {}
    count, tokens = 0, 0
    upto = FIRST
    while upto <= len(sample):
        with torch.inference_mode():
            for batch in batches(sample[count:upto]):
                mask = batch.get("attention_mask")
                real[0] = None if mask is None else mask.bool()
                model.base_model(**batch, use_cache=False)
                tokens += int(batch["input_ids"].numel() if mask is None else mask.sum())
        now = {name: total / tokens for name, total in sums.items()}
        if before and _change(before, now) < CHANGE:
            return upto
        before, count, upto = now, upto, 2 * upto
    return len(sample)


def _change(before: dict[str, Any], now: dict[str, Any]) -> float:
    """Of each layer the absolute changes' sum over the sum of all, and of these the mean."""
    shares = [float((now[name] - before[name]).abs().sum() / now[name].sum()) for name in now]
    return sum(shares) / len(shares)
