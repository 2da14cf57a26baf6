"""How tasks that each see a part of the corpus bring equal hashes together: sorted files, read a range of hashes at a time.

One task a part writes its (hash, value) pairs, sorted and cut into partitions by their leading bits; then one task a
partition reads its cut of all files. Every file appears whole or not at all, so it is its own marker: after a kill
only what is missing is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.data import shards
from manta.data.spread import Item, spread
from manta.storage import Folder

if TYPE_CHECKING:  # what cleans documents reads sets of hashes, and the corpus is made by what cleans documents
    from manta.data.corpus import Context, Corpus

# Pairs of a partition: 16 bytes each, of which sorting needs about four times as much.
PARTITION_PAIRS = 1 << 24


def num_partitions(num_pairs: int) -> int:
    """How many partitions this many pairs fill. Depends on the corpus alone, never on how many CPUs there are."""
    return max(1, -(-num_pairs // PARTITION_PAIRS))


def part_items(corpus: Corpus, context: Context, partitions: int, **settings: Any) -> list[Item]:
    """One task for each part that still has documents; `first` is the index of the document in the part's row 0."""
    items, seen = [], 0
    for number, (path, rows) in enumerate(corpus.pieces(corpus.kept)):
        items.append(
            {"folder": context.folder.url, "part": path, "rows": rows, "first": int(corpus.kept[seen]) - rows[0],
             "partitions": partitions, "output": f"work/corpus/{context.name}/part-{number:05}.parquet"} | settings
        )  # fmt: skip
        seen += len(rows)
    return items


def partition_items(parts: Sequence[Item], context: Context, partitions: int, **settings: Any) -> list[Item]:
    """One task for each partition of what the parts' tasks wrote."""
    inputs = [item["output"] for item in parts]
    return [
        {"folder": context.folder.url, "inputs": inputs, "partition": number,
         "output": f"work/corpus/{context.name}/partition-{number:05}.parquet"} | settings
        for number in range(partitions)
    ]  # fmt: skip


def run(function: Callable[[Item], Item], items: Sequence[Item], context: Context, unit: str) -> list[str]:
    """Do every item whose output is not there yet. Returns the outputs in order."""
    todo = [item for item in items if not context.folder.exists(item["output"])]
    for number, _ in enumerate(spread(function, todo, context.at_once), len(items) - len(todo) + 1):
        context.progress.update(number, len(items), unit)
    return [item["output"] for item in items]


def texts(item: Item) -> list[str]:
    """The texts of the kept documents of an item's part."""
    table = shards.read_table(Folder(item["folder"]), item["part"], ("text",))
    return list(table.take(item["rows"]).column("text").to_pylist())


def write_pairs(item: Item, hashes: Any, values: Any) -> Item:
    """Write an item's pairs (uint64 and int64, both (num_pairs,)) to its output, one row group a partition."""
    import pyarrow as pa

    order = np.argsort(hashes, kind="stable")
    hashes, partitions = hashes[order], item["partitions"]
    which = (hashes >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)
    cuts = np.searchsorted(which, np.arange(partitions + 1, dtype=np.uint64))
    columns = {
        name: pa.LargeListArray.from_arrays(pa.array(cuts), pa.array(column))
        for name, column in (("hash", hashes), ("value", values[order]))
    }
    shards.write_table(Folder(item["folder"]), item["output"], pa.table(columns), row_group_size=1)
    return {}


def read_pairs(item: Item) -> tuple[Any, Any]:
    """All pairs of an item's partition, sorted by hash; of equal hashes the value of the earlier part comes first."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fsspec.core import open as open_url

    groups = []
    for name in item["inputs"]:
        with open_url(f"{item['folder']}/{name}", "rb") as handle, pq.ParquetFile(handle) as file:
            groups.append(file.read_row_group(item["partition"]))
    table = pa.concat_tables(groups)
    hashes, values = (
        np.concatenate([chunk.flatten().to_numpy() for chunk in table.column(name).chunks])
        for name in ("hash", "value")
    )
    order = np.argsort(hashes, kind="stable")
    return hashes[order], values[order]


# --- sets of hashes --------------------------------------------------------------------------------------------------


def write_hashes(folder: Folder, path: str, hashes: Any, **facts: str) -> None:
    """Write a sorted set of hashes, uint64 (num_hashes,), with facts that belong to them."""
    import pyarrow as pa

    shards.write_table(folder, path, pa.table({"hash": hashes}).replace_schema_metadata(facts))


def read_hashes(folder: Folder, path: str) -> tuple[Any, dict[str, str]]:
    """What `write_hashes` wrote."""
    table = shards.read_table(folder, path)
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return table.column("hash").to_numpy(), facts


class Known:
    """A sorted set of hashes, uint64 (num_hashes,), that is asked often. Its table takes at most 32 bytes a hash."""

    def __init__(self, hashes: Any):
        # Most of what is asked for is not there, which its leading bits alone tell: a look into a table is far faster
        # than a search. The table has at least 8 places a hash, as long as it stays below 2^28 places.
        self.hashes = hashes
        self.shift = np.uint64(64 - min(28, (8 * len(hashes)).bit_length() + 1))
        self.begun = np.zeros(1 << (64 - int(self.shift)), dtype=bool)
        self.begun[hashes >> self.shift] = True

    def holds(self, asked: Any) -> Any:
        """Which of `asked`, uint64 (num_asked,), are in the set: bool (num_asked,)."""
        held = self.begun[asked >> self.shift]
        maybe = np.flatnonzero(held)
        if len(maybe):
            places = np.minimum(np.searchsorted(self.hashes, asked[maybe]), len(self.hashes) - 1)
            held[maybe] = self.hashes[places] == asked[maybe]
        return held
