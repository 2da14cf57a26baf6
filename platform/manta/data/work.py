"""The two units of work that `prepare` spreads over Ray: clean a group of documents, pack a range of them."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from manta.data import cleaning, dedup, documents, examples, layouts, linededup, shards, tokenizer
from manta.data.cleaning import decontaminate
from manta.data.documents import Unreadable
from manta.data.sources import File
from manta.sections.layout import Layout
from manta.sections.prepare import Source, Step
from manta.storage import Folder

# Texts are held and written in pieces of about this many characters, so that a task's memory does not grow with its files.
PIECE_CHARS = 2 << 20
BATCH = 256
AUGMENTED = "work/augmented/"  # parts with documents that were not read but made
DROPPED_START = 200  # characters of a dropped document that are kept, to recognise it


def cleaned_marker(phase: int, number: int) -> str:
    return f"work/cleaned/{phase}-{number:05}.json"


def quarantine(number: int) -> str:
    return f"work/quarantine/{number:05}.jsonl"


def packed_marker(split: str, number: int) -> str:
    return f"work/packed/{split}-{number:05}.json"


# --- clean -----------------------------------------------------------------------------------------------------------


def clean_unit(item: dict[str, Any]) -> dict[str, Any]:
    """Apply one phase's steps to one unit: a group of files, or the parts that the phase before made of one.

    `item`: folder, phase, number, files or pieces, sources, steps, keep_dropped, remove (a file of line hashes) or
    None, heldout (a file of n-gram hashes) or None. Writes work/cleaned/P-N-M.parquet (id, source, language, text,
    digest, chars), dropped/P-N.parquet, work/quarantine/N.jsonl, and, last, the marker that holds the returned summary.
    """
    folder, name = Folder(item["folder"]), f"{item['phase']}-{item['number']:05}"
    steps = TypeAdapter(list[Step]).validate_python(item["steps"])
    remove = linededup.remover(folder, item["remove"]) if item["remove"] else None
    bound = {"decontaminate": decontaminate.decontaminator(folder, item["heldout"])} if item.get("heldout") else {}
    bad: list[Unreadable] = []
    by_source: dict[str, Counter[str]] = {}
    dropped: list[tuple[str, str, str, str]] = []
    parts: list[dict[str, Any]] = []
    for piece in _from_files(item, bad) if "files" in item else _from_parts(folder, item["pieces"]):
        kept = []
        for batch in (piece[i : i + BATCH] for i in range(0, len(piece), BATCH)):
            seen = cleaning.Batch([text.text for text in batch], [text.language for text in batch])
            if remove is not None:
                seen = cleaning.Batch([remove(text) for text in seen.texts], seen.languages)
            outcome = cleaning.apply(seen, steps, bound)
            for found, text, language, reason in zip(
                batch, outcome.texts, outcome.languages, outcome.reasons, strict=True
            ):
                counts = by_source.setdefault(found.source, Counter())
                counts["read"] += 1
                counts["chars"] += len(found.text)
                if reason is None and remove is not None and not text:  # of shared lines only
                    text, reason = found.text, "line_dedup.nothing_left"
                if reason is None:
                    kept.append((found.id, found.source, language, text, dedup.digest(text), len(text)))
                else:
                    counts[reason] += 1
                    dropped.append((found.id, found.source, reason, _detail(text, item["keep_dropped"])))
        path = f"work/cleaned/{name}-{len(parts):03}.parquet"
        shards.write_table(folder, path, _cleaned_table(kept), row_group_size=256)
        parts.append({"path": path, "documents": len(kept)})
    if dropped and item["keep_dropped"] != "none":
        write_dropped(folder, name, dropped)
    if bad:
        entries = (json.dumps(entry.as_json(), ensure_ascii=False) + "\n" for entry in bad)
        folder.write_text(quarantine(item["number"]), "".join(entries))
    summary = {
        "number": item["number"],
        "files": len(item.get("files", ())),
        "parts": parts,
        "sources": by_source,
        "quarantined": len(bad),
        "first_quarantined": f"{bad[0].file} at {bad[0].offset}: {bad[0].reason}" if bad else None,
    }
    folder.write_text(cleaned_marker(item["phase"], item["number"]), json.dumps(summary))
    return summary


class Text(NamedTuple):
    """One document on its way through the steps."""

    id: str
    source: str
    language: str
    text: str


def _from_files(item: dict[str, Any], bad: list[Unreadable]) -> Iterator[list[Text]]:
    """The documents of a group of files, in pieces; what cannot be read goes to `bad`."""
    sources = [Source.model_validate(source) for source in item["sources"]]
    piece: list[Text] = []
    chars = 0
    for file in (File(**described) for described in item["files"]):
        source = sources[file.source]
        for found in documents.read(file, source):
            if isinstance(found, Unreadable):
                bad.append(found)
                continue
            piece.append(Text(found.id, source.path, source.language or "", found.text))
            chars += len(found.text)
            if chars >= PIECE_CHARS:
                yield piece
                piece, chars = [], 0
    if piece:
        yield piece


def _from_parts(folder: Folder, pieces: list[tuple[str, list[int]]]) -> Iterator[list[Text]]:
    """The documents at the given rows of cleaned parts, one part at a time."""
    for piece in pieces:
        rows = take(folder, [piece]).select(Text._fields).to_pylist()
        yield [Text(**row) for row in rows]


def _detail(text: str, keep: str) -> str:
    return text if keep == "full" else text[:DROPPED_START]


def _cleaned_table(kept: list[tuple[str, str, str, str, bytes, int]]) -> Any:
    import pyarrow as pa

    types = {
        "id": pa.string(), "source": pa.string(), "language": pa.string(), "text": pa.large_string(),
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
    """The documents (id, source, language, text, augmented) at the given rows of cleaned parts, as one pyarrow Table."""
    import pyarrow as pa

    return pa.concat_tables(_part(folder, path).take(rows) for path, rows in pieces)


def _part(folder: Folder, path: str) -> Any:
    """A part's documents. `augmented` says how one was made, "" where it was read."""
    import pyarrow as pa

    if path.startswith(AUGMENTED):
        return shards.read_table(folder, path, (*Text._fields, "augmented"))
    table = shards.read_table(folder, path, Text._fields)
    return table.append_column("augmented", pa.repeat(pa.scalar(""), len(table)))


def pack_range(item: dict[str, Any]) -> dict[str, Any]:
    """Tokenise one range of documents and lay them out as the rows of one shard.

    `item`: folder, split, number, pieces (as `take` wants them), engine, seq_len, layout, seed, examples, source. Writes
    documents/S-N.parquet, S/N.parquet, work/examples/S-N.parquet, and, last, the marker with the returned summary.
    """
    import pyarrow as pa

    folder, split, number = Folder(item["folder"]), str(item["split"]), int(item["number"])
    name = f"{split}-{number:05}"
    table = take(folder, item["pieces"])
    texts = table.column("text").to_pylist()
    layout: Layout = TypeAdapter(Layout).validate_python(item["layout"])
    encode, known = encoder(folder.url, item["engine"])
    languages = table.column("language").to_pylist()
    started = time.perf_counter()
    rows = layouts.LAYOUTS[layout.kind](
        layouts.Documents(texts, languages, encode, known, item["seq_len"], item["seed"]), layout
    )
    seconds = time.perf_counter() - started
    shard = shards.write_shard(folder, f"{split}/{number:05}.parquet", rows.columns) if rows.num_rows else None
    table = table.append_column("split", pa.array([split] * len(texts), type=pa.string()))
    shards.write_table(folder, f"documents/{name}.parquet", table, row_group_size=256)
    num_pairs = 0
    if item["examples"] != "none":
        read = [text for text, made in zip(texts, table.column("augmented").to_pylist(), strict=True) if not made]
        pairs = [pair for text in read for pair in examples.EXTRACTORS[item["examples"]](text)]
        write_examples(folder, f"work/examples/{name}.parquet", pairs)
        num_pairs = len(pairs)
    summary = {
        "split": split, "number": number, "source": item["source"], "documents": len(texts), "chars": sum(map(len, texts)),
        "tokens": rows.tokens, "padding": rows.padding, "left_over": rows.left_over, "documents_cut": rows.documents_cut,
        "pairs": num_pairs, "columns": list(rows.columns), "seconds": seconds, "shard": None if shard is None else vars(shard),
    }  # fmt: skip
    folder.write_text(packed_marker(split, number), json.dumps(summary))
    return summary


@functools.lru_cache(maxsize=2)
def encoder(folder: str, engine: str) -> tuple[tokenizer.Encode, tokenizer.Facts]:
    """The encoder of an artifact's tokenizer and its facts, made once a process."""
    place = Folder(folder) / "tokenizer"
    found = tokenizer.build(engine, place.read_text("tokenizer.json"))
    assert found is not None, "it was chosen because it can represent this tokenizer"
    return found, tokenizer.facts(place)


def write_examples(folder: Folder, path: str, pairs: list[examples.Pair]) -> None:
    import pyarrow as pa

    inputs, targets = zip(*pairs, strict=True) if pairs else ((), ())
    table = pa.table({"input": pa.array(inputs, type=pa.string()), "target": pa.array(targets, type=pa.string())})
    shards.write_table(folder, path, table)
