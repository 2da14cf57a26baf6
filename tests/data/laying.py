"""Lays planted documents down as files of several sources, among lines and files that cannot be read."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from tests.data import prose
from tests.data.planting import STEPS, Planted, breaking, clean, twins

# Lines that cannot be read, and how the reason begins.
UNREADABLE = [
    (b'{"text": "a string that never ends', "not JSON"),
    (b'{"text": 17}', "column 'text' holds a int"),
    (b'{"text": "caf\xe9"}', "not UTF-8"),
    (b'{"words": "no such column"}', "no column 'text'"),
]
PAGES, PACKED = "pages/*.jsonl", "packed/*.jsonl.gz"
SPREAD = [PAGES] * 4 + [PACKED] * 2  # which source each sixth of the documents goes to


class Laid(NamedTuple):
    """A corpus on disk, and what is known of it."""

    folder: Path
    sources: list[dict[str, Any]]
    documents: dict[str, Planted]  # by id, in the order (source, path, place in the file)
    source: dict[str, str]  # id -> path of its source
    first: dict[str, str]  # id of a repeated document -> id of the one that stays
    unreadable: list[tuple[str, int, str]]  # file, offset, how the reason begins

    def recipe(self, output: Path) -> dict[str, Any]:
        data = {
            "sources": self.sources,
            "steps": STEPS,
            "heldout": f"{self.folder}/heldout.jsonl",
            "max_quarantined": 0.1,
        }
        return {"kind": "prepare", "name": "shards", "output": str(output), "data": data}


def lay(folder: Path, languages: list[str]) -> Laid:
    """Write a corpus in one language (en, zh) or several."""
    laid = Laid(folder, [], {}, {}, {}, [])
    rows = [json.dumps({"question": prose.QUESTIONS[lang], "answer": "?"}) + "\n" for lang in languages]
    folder.mkdir(parents=True)
    (folder / "heldout.jsonl").write_text("".join(rows))
    planted = {lang: _planted(lang) for lang in languages}
    order = {lang: _order(lang, planted[lang]) for lang in languages}
    ids: dict[tuple[str, int], str] = {}
    for source in (PAGES, PACKED):
        laid.sources.append({"path": f"{folder}/{source}", "format": "jsonl"})
        for lang in languages:
            for sixth in (number for number, chosen in enumerate(SPREAD) if chosen == source):
                numbers = order[lang][sixth * len(order[lang]) // 6 : (sixth + 1) * len(order[lang]) // 6]
                file = folder / source.replace("*", f"{lang}-{sixth}")
                for number, name in zip(
                    numbers, _write(laid, file, source, [planted[lang][n] for n in numbers]), strict=True
                ):
                    ids[lang, number] = name
    for lang in languages:
        if stated := [document for document in planted[lang] if document.stated]:
            source = f"stated-{lang}/*.jsonl"
            laid.sources.append({"path": f"{folder}/{source}", "format": "jsonl", "language": lang})
            _write(laid, folder / source.replace("*", "all"), source, stated)
        twin = {number: document.first for number, document in enumerate(planted[lang]) if document.first >= 0}
        laid.first.update({ids[lang, number]: ids[lang, first] for number, first in twin.items()})
    return laid


def _planted(lang: str) -> list[Planted]:
    kept = list(clean(lang))
    return kept + breaking(lang) + twins(lang, kept)


def _order(lang: str, planted: list[Planted]) -> list[int]:
    """The documents at random, but none before the one that it repeats."""
    order = [number for number, document in enumerate(planted) if not document.stated]
    random.Random(f"order {lang}").shuffle(order)
    for number, document in enumerate(planted):
        if document.first >= 0:
            one, two = sorted((order.index(document.first), order.index(number)))
            order[one], order[two] = document.first, number
    return order


def _write(laid: Laid, file: Path, source: str, planted: list[Planted]) -> list[str]:
    """Write a file, with one line that cannot be read; a packed one breaks off in a line after the others."""
    bad, says = UNREADABLE[len(laid.unreadable) % len(UNREADABLE)]
    at = len(planted) // 2
    ids, data = [], b""
    for index, document in enumerate(planted):
        if index == at:
            laid.unreadable.append((str(file), len(data), says))
            data += bad + b"\n"
        ids.append(f"{file}#{index + (index >= at)}")
        laid.documents[ids[-1]], laid.source[ids[-1]] = document, f"{laid.folder}/{source}"
        data += json.dumps({"text": document.text}, ensure_ascii=False).encode() + b"\n"
    file.parent.mkdir(exist_ok=True)
    if file.suffix != ".gz":
        file.write_bytes(data)
        return ids
    noise = json.dumps({"text": random.Random(str(file.name)).randbytes(100_000).hex()}).encode()
    packed = gzip.compress(data + noise, mtime=0)[:-20_000]
    file.write_bytes(packed)
    laid.unreadable.append((str(file), len(zlib.decompressobj(wbits=31).decompress(packed)), "damaged"))
    return ids
