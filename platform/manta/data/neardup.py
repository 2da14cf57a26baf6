"""Near-duplicates over the whole corpus: documents that share a MinHash band form clusters; the first of each stays."""

from __future__ import annotations

from typing import Any

import numpy as np

from manta.data import exchange, minhash, shards
from manta.data.corpus import Context, Corpus, without
from manta.data.shingles import shingles
from manta.data.spread import Item
from manta.sections.prepare import NearDedup
from manta.storage import Folder

# Documents whose signatures are made at once.
BATCH = 256


def near_dedup(corpus: Corpus, step: NearDedup, context: Context) -> Corpus:
    """Keep the first document of each cluster. Documents of fewer than `step.ngram` words are left alone.

    Clusters are the connected components of "shares a band", so a document may repeat the kept one only by way of
    others. The driver holds one edge for each repeated document and those of one partition.
    """
    partitions = exchange.num_partitions(corpus.num_kept * step.bands)
    settings = {"ngram": step.ngram, "bands": step.bands, "band_rows": step.rows}
    parts = exchange.part_items(corpus, context, partitions, **settings)
    exchange.run(sign, parts, context, "parts signed")
    found = exchange.run(
        link, exchange.partition_items(parts, context, partitions), context, "partitions of bands compared"
    )
    edges = np.zeros((0, 2), dtype=np.int64)
    for path in found:
        table = shards.read_table(context.folder, path)
        more = np.stack([table.column(name).to_numpy() for name in ("document", "first")], axis=1)
        edges = join(np.concatenate([edges, more]))
    return without(corpus, edges[:, 0], edges[:, 1], "near_dedup", context)


def sign(item: Item) -> Item:
    """Write a part's (band hash, document) pairs. `item`: as `exchange.part_items` makes it, ngram, bands, band_rows."""
    texts, rows = exchange.texts(item), np.asarray(item["rows"], dtype=np.int64)
    hashes, documents = [], []
    for start in range(0, len(texts), BATCH):
        batch = shingles(texts[start : start + BATCH], item["ngram"])
        folded, found = minhash.band_hashes(*batch, item["bands"], item["band_rows"])
        hashes.append(folded.reshape(-1))
        documents.append(np.repeat(item["first"] + rows[start + found], item["bands"]))
    return exchange.write_pairs(item, np.concatenate(hashes), np.concatenate(documents))


def link(item: Item) -> Item:
    """Write the edges (document, first document) of a partition. `item`: as `exchange.partition_items` makes it."""
    import pyarrow as pa

    hashes, documents = exchange.read_pairs(item)
    again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    edges = join(np.stack([documents[again], documents[again - 1]], axis=1))
    table = pa.table({"document": edges[:, 0], "first": edges[:, 1]})
    shards.write_table(Folder(item["folder"]), item["output"], table)
    return {}


def join(edges: Any) -> Any:
    """Edges int64 (num_edges, 2) as clusters: (document, lowest document of its cluster), int64 (num_repeats, 2).

    Sorted by document; the lowest one has no row. Joined again with more edges this gives the clusters of all of them.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, ends = np.unique(edges, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, cluster = connected_components(graph, directed=False)
    _, lowest = np.unique(cluster, return_index=True)
    first = nodes[lowest[cluster]] if len(nodes) else nodes
    repeats = first != nodes
    return np.stack([nodes[repeats], first[repeats]], axis=1)
