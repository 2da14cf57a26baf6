"""A user's file of synonyms, as TSV or as JSON lines."""

from __future__ import annotations

import functools
import json

from manta.errors import InputError

Dictionary = dict[str, tuple[str, ...]]


@functools.lru_cache(4)
def read(path: str, where: str) -> Dictionary:
    """word -> its synonyms, in the file's order. Read once a process.

    A line of TSV is the word and its synonyms with tabs between them; of JSONL (told by its ending) an object with
    `word` and `synonyms`. UTF-8, compressed or not, on any filesystem; a word may have several lines. Raises InputError.
    """
    from fsspec.core import open as open_url

    jsonl = path.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz").endswith(".jsonl")
    found: dict[str, dict[str, None]] = {}
    try:
        with open_url(path, "rt", encoding="utf-8-sig", compression="infer") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                word, others = _json(line) if jsonl else _tsv(line)
                if not word or not others:
                    form = '{"word": "...", "synonyms": ["..."]}' if jsonl else "word<TAB>synonym<TAB>synonym"
                    raise InputError(f"{where} = {path!r}: line {number} is not {form}: mend it")
                found.setdefault(word, {}).update(dict.fromkeys(others))
    except FileNotFoundError:
        raise InputError(f"{where} = {path!r} does not exist: check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where} = {path!r} is not UTF-8 ({error.reason}): convert it") from None
    return {word: rest for word, others in found.items() if (rest := tuple(o for o in others if o != word))}


def _tsv(line: str) -> tuple[str, list[str]]:
    word, *others = (field.strip() for field in line.split("\t"))
    return word, [other for other in others if other]


def _json(line: str) -> tuple[str, list[str]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return "", []
    word, others = (row.get("word"), row.get("synonyms")) if isinstance(row, dict) else (None, None)
    if not isinstance(word, str) or not isinstance(others, list) or not all(isinstance(o, str) and o for o in others):
        return "", []
    return word, others
