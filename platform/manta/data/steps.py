"""The two units of work that `prepare` spreads over Ray: clean a group of files, pack a range of documents."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from manta.data import clean, dedup, documents, examples, packing, shards, tokenizer
from manta.data.documents import Document, Unreadable
from manta.data.sources import File
from manta.sections import Clean, Source
from manta.storage import Folder

# Texts are held and written in pieces of about this many characters, so that a task's memory does not grow with its files.
PIECE_CHARS = 32 << 20
BATCH = 256
DROPPED_START = 200  # characters of a dropped document that are kept, to recognise it


def cleaned_marker(number: int) -> str:
    return f"work/cleaned/{number:05}.json"


def packed_marker(split: str, number: int) -> str:
    return f"work/packed/{split}-{number:05}.json"


# --- read and clean --------------------------------------------------------------------------------------------------


def clean_group(item: dict[str, Any]) -> dict[str, Any]:
    """Read and clean one group of files.

    `item`: folder, number, files, sources, clean. Writes work/cleaned/N-M.parquet (id, source, text, digest, chars),
    dropped/N.parquet, work/quarantine/N.jsonl, and, last, the marker that holds the returned summary.
    """
    folder, number = Folder(item["folder"]), int(item["number"])
    sources = [Source.model_validate(source) for source in item["sources"]]
    settings = Clean.model_validate(item["clean"])
    files = [File(**file) for file in item["files"]]
    counts: Counter[str] = Counter()
    bad: list[Unreadable] = []
    dropped: list[tuple[str, str, str, str]] = []
    parts: list[dict[str, Any]] = []
    for piece in _pieces(files, sources, bad):
        kept = []
        for batch in (piece[i : i + BATCH] for i in range(0, len(piece), BATCH)):
            texts, reasons = clean.clean([document.text for document in batch], settings)
            for document, text, reason in zip(batch, texts, reasons, strict=True):
                where = sources[document.source].path
                if reason is None:
                    kept.append((document.id, where, text, dedup.digest(text), len(text)))
                else:
                    counts[reason] += 1
                    dropped.append((document.id, where, reason, text[:DROPPED_START]))
        counts["read"] += len(piece)
        name = f"work/cleaned/{number:05}-{len(parts):03}.parquet"
        shards.write_table(folder, name, _cleaned_table(kept), row_group_size=256)
        parts.append({"path": name, "documents": len(kept)})
    if dropped:
        write_dropped(folder, f"{number:05}", dropped)
    if bad:
        lines = (json.dumps(entry.as_json(), ensure_ascii=False) + "\n" for entry in bad)
        folder.write_text(f"work/quarantine/{number:05}.jsonl", "".join(lines))
    read = counts.pop("read", 0)
    first_bad = f"{bad[0].file} at {bad[0].offset}: {bad[0].reason}" if bad else None
    summary = {
        "number": number, "files": len(files), "parts": parts, "read": read,
        "dropped": dict(counts), "quarantined": len(bad), "first_quarantined": first_bad,
    }  # fmt: skip
    folder.write_text(cleaned_marker(number), json.dumps(summary))
    return summary


def _pieces(files: list[File], sources: list[Source], bad: list[Unreadable]) -> Iterator[list[Document]]:
    piece: list[Document] = []
    chars = 0
    for file in files:
        for found in documents.read(file, sources[file.source]):
            if isinstance(found, Unreadable):
                bad.append(found)
                continue
            piece.append(found)
            chars += len(found.text)
            if chars >= PIECE_CHARS:
                yield piece
                piece, chars = [], 0
    if piece:
        yield piece


def _cleaned_table(kept: list[tuple[str, str, str, bytes, int]]) -> Any:
    import pyarrow as pa

    types = {
        "id": pa.string(), "source": pa.string(), "text": pa.large_string(),
        "digest": pa.binary(dedup.DIGEST_BYTES), "chars": pa.int64(),
    }  # fmt: skip
    columns = list(zip(*kept, strict=True)) or [()] * len(types)
    return pa.table({name: pa.array(column, type=types[name]) for name, column in zip(types, columns, strict=True)})


def write_dropped(folder: Folder, name: str, rows: list[tuple[str, str, str, str]]) -> None:
    """Write what was dropped, to be looked at: id, source, reason, and how it starts (or which document it repeats)."""
    import pyarrow as pa

    columns = zip(("id", "source", "reason", "detail"), zip(*rows, strict=True), strict=True)
    table = pa.table({column: pa.array(values, type=pa.string()) for column, values in columns})
    shards.write_table(folder, f"dropped/{name}.parquet", table)


# --- tokenise and pack -----------------------------------------------------------------------------------------------


def take(folder: Folder, pieces: list[tuple[str, list[int]]]) -> Any:
    """The documents (id, source, text) at the given rows of the given cleaned parts, as one pyarrow Table."""
    import pyarrow as pa

    wanted = ("id", "source", "text")
    return pa.concat_tables(shards.read_table(folder, path, wanted).take(rows) for path, rows in pieces)


def pack_range(item: dict[str, Any]) -> dict[str, Any]:
    """Tokenise and pack one range of documents into one shard.

    `item`: folder, split, number, pieces (as `take` wants them), engine, eos_id, seq_len, examples. Writes
    documents/S-N.parquet, S/N.parquet, work/examples/S-N.parquet, and, last, the marker with the returned summary.
    """
    import pyarrow as pa

    folder, split, number = Folder(item["folder"]), str(item["split"]), int(item["number"])
    name = f"{split}-{number:05}"
    table = take(folder, item["pieces"])
    texts = table.column("text").to_pylist()
    encode = encoder(folder.url, item["engine"])
    started = time.perf_counter()
    ids = [encode(text) for text in texts]
    seconds = time.perf_counter() - started
    rows, tail = packing.pack(ids, item["eos_id"], item["seq_len"])
    shard = shards.write_shard(folder, f"{split}/{number:05}.parquet", rows) if len(rows) else None
    table = table.append_column("split", pa.array([split] * len(texts), type=pa.string()))
    shards.write_table(folder, f"documents/{name}.parquet", table, row_group_size=256)
    num_pairs = 0
    if item["examples"] != "none":
        pairs = [pair for text in texts for pair in examples.EXTRACTORS[item["examples"]](text)]
        write_examples(folder, f"work/examples/{name}.parquet", pairs)
        num_pairs = len(pairs)
    summary = {
        "split": split, "number": number, "documents": len(texts), "chars": sum(map(len, texts)),
        "tokens": sum(map(len, ids)) + len(ids), "left_over": len(tail), "pairs": num_pairs,
        "seconds": seconds, "shard": None if shard is None else vars(shard),
    }  # fmt: skip
    folder.write_text(packed_marker(split, number), json.dumps(summary))
    return summary


@functools.lru_cache(maxsize=2)
def encoder(folder: str, engine: str) -> tokenizer.Encode:
    """The encoder of an artifact's tokenizer, built once a process."""
    return tokenizer.encoders(Folder(folder).read_text("tokenizer/tokenizer.json"))[engine]


def write_examples(folder: Folder, path: str, pairs: list[examples.Pair]) -> None:
    import pyarrow as pa

    inputs, targets = zip(*pairs, strict=True) if pairs else ((), ())
    table = pa.table({"input": pa.array(inputs, type=pa.string()), "target": pa.array(targets, type=pa.string())})
    shards.write_table(folder, path, table)
