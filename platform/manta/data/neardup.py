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
    others. What repeats within a part is joined there, so each part tells the others of a band hash once: a hash that
    all documents share (boilerplate) costs a partition one pair a part. Hashes fall evenly, so with n parts a partition
    holds at most PARTITION_PAIRS on average, with a standard deviation of at most sqrt(n x PARTITION_PAIRS): 2.4% for
    10^4 parts. The driver holds one edge for each repeated document and those of one partition.
    """
    parts, partitions = items(corpus, step, context)
    exchange.run(sign, parts, context, "parts signed")
    found = exchange.run(
        link, exchange.partition_items(parts, context, partitions), context, "partitions of bands compared"
    )
    # No document is in two parts, so the parts' edges are clusters already.
    none = np.zeros((0, 2), dtype=np.int64)
    edges = np.concatenate([none, *(_read_edges(context.folder, item["edges"]) for item in parts)])
    for path in found:
        edges = join(np.concatenate([edges, _read_edges(context.folder, path)]))
    return without(corpus, edges[:, 0], edges[:, 1], "near_dedup", context)


def items(corpus: Corpus, step: NearDedup, context: Context) -> tuple[list[Item], int]:
    """What `sign` is called with, one for each part, and the number of partitions it writes pairs for."""
    partitions = exchange.num_partitions(corpus.num_kept * step.bands)
    settings = {"ngram": step.ngram, "bands": step.bands, "band_rows": step.rows}
    parts = exchange.part_items(corpus, context, partitions, **settings)
    return [item | {"edges": item["output"].replace("part-", "edges-")} for item in parts], partitions


def sign(item: Item) -> Item:
    """Write the edges within a part, then its (band hash, first document of a cluster) pairs, each hash once.

    `item`: as `items` makes it.
    """
    texts, rows = exchange.texts(item), np.asarray(item["rows"], dtype=np.int64)
    hashes, documents = [], []
    for start in range(0, len(texts), BATCH):
        batch = shingles(texts[start : start + BATCH], item["ngram"])
        folded, found = minhash.band_hashes(*batch, item["bands"], item["band_rows"])
        hashes.append(folded.reshape(-1))
        documents.append(np.repeat(item["first"] + rows[start + found], item["bands"]))
    pairs, values = np.concatenate(hashes), np.concatenate(documents)
    order = np.argsort(pairs, kind="stable")
    pairs, values, edges = reduced(pairs[order], values[order])
    _write_edges(item, item["edges"], edges)  # before the pairs, which say that the part is done
    return exchange.write_pairs(item, pairs, values)


def link(item: Item) -> Item:
    """Write the edges (document, first document) of a partition. `item`: as `exchange.partition_items` makes it."""
    _write_edges(item, item["output"], reduced(*exchange.read_pairs(item))[2])
    return {}


def reduced(hashes: Any, documents: Any) -> tuple[Any, Any, Any]:
    """What (band hash, document) pairs say, in fewer of them: hashes and firsts, and the edges of `join`.

    `hashes` uint64 (num_pairs,) ascending and `documents` int64 (num_pairs,). Returns each hash once, uint64
    (num_hashes,), the lowest document of its cluster, int64 (num_hashes,), and the edges, int64 (num_repeats, 2).
    """
    same = hashes[1:] == hashes[:-1]
    edges = join(np.stack([documents[1:][same], documents[:-1][same]], axis=1))
    starts = np.append(True, ~same)[: len(hashes)]
    hashes, firsts = hashes[starts], documents[starts]
    if len(edges):
        places = np.minimum(np.searchsorted(edges[:, 0], firsts), len(edges) - 1)
        firsts = np.where(edges[places, 0] == firsts, edges[places, 1], firsts)
    return hashes, firsts, edges


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


def _write_edges(item: Item, path: str, edges: Any) -> None:
    import pyarrow as pa

    table = pa.table({"document": edges[:, 0], "first": edges[:, 1]})
    shards.write_table(Folder(item["folder"]), path, table)


def _read_edges(folder: Folder, path: str) -> Any:
    table = shards.read_table(folder, path)
    return np.stack([table.column(name).to_numpy() for name in ("document", "first")], axis=1)
