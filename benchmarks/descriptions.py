"""English sentences with their German, and a T5 that has read both languages: Debian's package descriptions, fetched by apt.

What a package is comes in English and, by volunteers, in other languages: a line and some paragraphs (under the package's
own free licence). apt fetches the lists of both languages from the machine's own sources into a folder of the benchmark.
Packages of one family, such as libxcb1 and libxcb-dev, repeat each other: one family in sixteen is held out as a whole, from
the sentences that are learnt and from what the model has read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import harness

from manta import recipe, stage
from manta.errors import InputError
from manta.progress import Progress

LANGUAGES = ("en", "de")
HELD_OUT = 16  # one family in so many
SHORTEST, LONGEST = 12, 160  # characters of a sentence
LIKE = 1.8  # a sentence of more times the length of its translation is none
FAMILY = re.compile(r"(?:lib)?[^a-z]*([a-z]+)")
SENTENCE = re.compile(r"(?<=[a-zäöüß)»\"][.!?])\s+(?=[A-ZÄÖÜ»\"])")
VOCABULARY, TOKENS = 4096, 128


class Description(NamedTuple):
    """A package and what it is, each language's first line and first paragraph."""

    package: str
    lines: dict[str, str]
    paragraphs: dict[str, str]
    texts: dict[str, str]  # all of it


def held_out(package: str) -> bool:
    """Whether nothing that belongs to a package's family may be learnt."""
    found = FAMILY.match(package)
    family = found.group(1) if found else package
    return hashlib.sha256(family.encode()).digest()[0] % HELD_OUT == 0


def pairs() -> Iterator[dict[str, Any]]:
    """Examples of translation: first lines, and the first sentences of first paragraphs of as many sentences."""
    for each in descriptions():
        for english, german in (_both(each.lines), _both({name: _first(each, name) for name in LANGUAGES})):
            if _alike(english, german):
                yield {"input": english, "target": german, "held_out": held_out(each.package)}


def translator(tokens: int) -> Path:
    """A Hugging Face directory of a small T5 that has filled spans of `tokens` tokens of text in both languages."""
    folder = harness.SCRATCH / "descriptions" / f"t5-{tokens}"
    texts = harness.SCRATCH / "descriptions" / "texts.jsonl"
    if not texts.exists():
        learnt = (each for each in descriptions() if not held_out(each.package))
        lines = [json.dumps({"text": text}, ensure_ascii=False) for each in learnt for text in each.texts.values()]
        texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare = {
        "kind": "prepare", "name": "shards", "output": str(folder),
        "data": {
            "sources": [{"path": str(texts), "format": "jsonl"}], "steps": [{"step": "exact_dedup"}],
            "validation_fraction": 0.01, "seq_len": TOKENS, "layout": {"kind": "denoising"},
        },
        "tokenizer": {"type": "unigram", "vocab_size": VOCABULARY, "sentinels": 100},
        "resources": {"cpus": 2},
    }  # fmt: skip
    pretrain = {
        "kind": "pretrain", "name": "base", "output": str(folder), "data": {"shards": "shards"},
        "model": {"preset": "t5-tiny"}, "objective": {"name": "denoising", "method": {"kind": "spans"}},
        "optimizer": {"lr": 5.0e-3, "weight_decay": 0.01, "precision": "fp32"}, "batch": {"samples": 32},
        "stop": {"tokens": tokens}, "checkpoint": {"every_steps": 10**6}, "evaluate": {"every_steps": 10**6, "max_rows": 64},
        "resources": {"cpus_per_worker": 2, "micro_batch": 32, "zero_stage": 0},
    }  # fmt: skip
    for raw in (prepare, pretrain):
        made = stage.run(
            recipe.validate(raw, origin="benchmarks/descriptions.py"), Progress(quiet=True)
        ).artifact.folder
    return Path(f"{made.url}/model")


# --- what apt has ----------------------------------------------------------------------------------------------------


def descriptions() -> Iterator[Description]:
    """What there is in both languages, of the same version of the English, in the order of packages."""
    lists = fetched()
    english, german = ({key: text for file in sorted(lists.glob(f"*_Translation-{name}")) for key, text in read(file, name)} for name in LANGUAGES)  # fmt: skip
    if not english or not german:
        raise InputError(
            f"apt's sources have {len(english):,} English and {len(german):,} German descriptions of packages, and translation is "
            "measured on those that have both: use a machine whose sources.list names Debian itself"
        )
    for key in sorted(english.keys() & german.keys()):
        texts = dict(zip(LANGUAGES, (english[key], german[key]), strict=True))
        yield Description(
            key[0],
            {name: text.partition("\n")[0] for name, text in texts.items()},
            {name: paragraph(text) for name, text in texts.items()},
            {name: whole(text) for name, text in texts.items()},
        )


def fetched() -> Path:
    """A folder with apt's lists of descriptions, fetched once. Raises InputError where there is no apt or it fails."""
    folder = harness.SCRATCH / "descriptions" / "apt"
    if folder.is_dir():
        return folder / "lists"
    if shutil.which("apt-get") is None:
        raise InputError("translation is measured on Debian's package descriptions, and there is no apt-get here: run it on Debian, or in a container of it")  # fmt: skip
    scratch = folder.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    for part in ("lists/partial", "cache/archives/partial"):
        (scratch / part).mkdir(parents=True)
    settings = {
        "Dir::State": scratch, "Dir::State::lists": scratch / "lists", "Dir::Cache": scratch / "cache",
        "Acquire::Languages": ",".join(LANGUAGES), "Acquire::GzipIndexes": "false",
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    done = subprocess.run(["apt-get", "--quiet", *words, "update"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"apt-get update fails: {done.stderr.strip()[-300:]}: mend the machine's apt sources")
    scratch.replace(folder)
    return folder / "lists"


def read(file: Path, language: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((package, hash of the English), description) of each record of a Translation file."""
    for record in file.read_text(encoding="utf-8").split("\n\n"):
        head, there, text = record.partition(f"\nDescription-{language}: ")
        if there:
            fields = dict(line.split(": ", 1) for line in head.strip().splitlines())
            yield (fields["Package"], fields["Description-md5"]), text.strip()


def paragraph(text: str) -> str:
    """The first paragraph behind the first line as one line; "" where there is none, or it is a list or a table."""
    found: list[str] = []
    for line in text.splitlines()[1:]:
        if line.strip() in ("", "."):
            break
        if line.startswith("  "):  # which stands as it is: code, lists
            return ""
        found.append(line.strip())
    return " ".join(found)


def whole(text: str) -> str:
    """A description as text: paragraphs stand apart by an empty line."""
    return "\n".join("" if line == " ." else line.removeprefix(" ") for line in text.splitlines())


# --- parts -----------------------------------------------------------------------------------------------------------


def _first(each: Description, language: str) -> str:
    """The first sentence of a paragraph; "" where the other language has another number of them, so that they may not match."""
    sentences = {name: SENTENCE.split(text) for name, text in each.paragraphs.items()}
    return sentences[language][0] if len({len(found) for found in sentences.values()}) == 1 else ""


def _both(texts: dict[str, str]) -> tuple[str, str]:
    english, german = (texts[name] for name in LANGUAGES)
    return english, german


def _alike(english: str, german: str) -> bool:
    """Whether two texts may be translations of each other: neither missing, much longer, nor left as it was."""
    lengths = sorted((len(english), len(german)))
    return lengths[0] >= SHORTEST and lengths[1] <= LONGEST and lengths[1] <= LIKE * lengths[0] and english != german
