"""What a model says before it is tuned to preferences: log-probabilities of both answers, computed once, stored beside them.

Not step by step from a second model: that would hold its weights through all of training and run both answers through it
again in every epoch. Two numbers a pair, in float32 as the loss wants them, are kept by their bits in a column of the
rows' int32, and do not depend on who trains: each is computed in a batch that follows from its row's number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manta import isolate, kernels
from manta.data.shards import Index, Shard, load_index, read_table, save_index, to_numpy, write_shard, write_table
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

COLUMN = "reference"
SLICE = 1024  # rows that are computed and stored in one piece: what is done is not done again
AT_ONCE = 8  # pairs that go through the model together
PROCESS_BYTES = 2 << 30  # of a process beside the weights: the libraries, a batch's logits


def store(recipe: FinetuneRecipe, folder: Folder, model: str, progress: Progress) -> None:
    """Add the column `reference` to the rows below `folder`: int32 (rows, 2), the bits of float32 nats, of the chosen and
    the rejected answer, by the model of the Hugging Face directory `model` as it stands.

    As many processes as there will be workers compute it; they end before training starts. Those slices that an earlier
    attempt has left are used. Does nothing where the column is there.
    """
    index = load_index(folder)
    if COLUMN in index.columns:
        return
    slices = [(split, first) for split in index.splits for first in range(0, index.rows(split), SLICE)]
    if left := [piece for piece in slices if not folder.exists(_file(*piece))]:
        rows = sum(index.rows(split) for split in index.splits)
        progress.note(f"asking the model for both answers of {rows:,} pairs, as it is before training")
        resources = recipe.resources
        shares = [left[number :: resources.workers] for number in range(min(resources.workers, len(left)))]
        calls = [
            isolate.Call(
                measure,
                (folder.url, model, share, recipe.optimizer.precision, resources.gpus_per_worker > 0),
                cpus=resources.cpus_per_worker,
                memory=PROCESS_BYTES + 2 * Folder(model).size(),
                gpus=resources.gpus_per_worker,
            )
            for share in shares
        ]
        isolate.run(calls, f"asking the model of {recipe.name} before training")
    splits = {split: tuple(_with_column(folder, index, split)) for split in index.splits}
    save_index(folder, replace(index, splits=splits, columns=(*index.columns, COLUMN)))


def measure(url: str, model: str, slices: Sequence[tuple[str, int]], precision: str, gpu: bool) -> None:
    """Compute these slices, (split, first row) each, of the rows in the folder `url`, and leave each as a file beside them."""
    import numpy as np
    import pyarrow as pa

    from manta.data.stream import take
    from manta.models.load import load

    if not gpu:
        kernels.keep()
    folder, index = Folder(url), load_index(url)
    with Folder(model).local() as path:
        loaded = load(path, precision, "preference").eval().to("cuda" if gpu else "cpu")
    wanted = [name for name in index.columns if name.endswith(("input_ids", "labels"))]
    for split, first in slices:
        rows = np.arange(first, min(first + SLICE, index.rows(split)))
        found = of_rows(loaded, take(url, index, split, rows, wanted))
        values = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), 2)
        write_table(folder, _file(split, first), pa.table({COLUMN: values}))


def of_rows(model: Any, columns: dict[str, np.ndarray]) -> np.ndarray:
    """The log-probabilities of both answers of each pair, float32 (rows, 2), by `model` without dropout.

    `columns` are those of `tasks.preference`, int32 (rows, seq). Batches are AT_ONCE rows from the first one on.
    """
    import numpy as np
    import torch

    from manta.objectives.preference import answers

    device = next(model.parameters()).device
    found = []
    for first in range(0, len(columns["input_ids"]), AT_ONCE):
        batch = {name: torch.from_numpy(values[first : first + AT_ONCE]).to(device) for name, values in columns.items()}
        with torch.inference_mode():
            found.append(answers(model, batch).cpu().numpy())
    return np.concatenate(found)


def _file(split: str, first: int) -> str:
    return f"reference/{split}-{first:09d}.parquet"


def _with_column(folder: Folder, index: Index, split: str) -> list[Shard]:
    """Write the shards of a split anew, with the column."""
    import numpy as np

    pieces = [
        to_numpy(read_table(folder, _file(split, first)).column(COLUMN)) for first in range(0, index.rows(split), SLICE)
    ]
    values = np.concatenate(pieces).astype(np.float32).view(np.int32) if pieces else np.zeros((0, 2), np.int32)
    written, start = [], 0
    for shard in index.splits[split]:
        table = read_table(folder, shard.path)
        columns = {name: to_numpy(table.column(name)) for name in table.column_names}
        written.append(write_shard(folder, shard.path, {**columns, COLUMN: values[start : start + shard.rows]}))
        start += shard.rows
    return written
