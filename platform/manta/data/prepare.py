"""The `prepare` stage: documents in; a tokenizer, packed token rows and supervised examples out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from manta import cluster
from manta.artifact import Draft, Resolved
from manta.data import cleaning, dedup, examples, packing, refine, shards, sources, tokenizer, work
from manta.data.corpus import Corpus, Split
from manta.data.spread import Item, spread
from manta.errors import InputError, Problem
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.storage import Folder

SPLITS = ("train", "validation")
# What the fast encoder is checked on, and what characters per token are measured on.
SAMPLE_CHARS = 300_000
DONE = "work/done.json"


def inventory(recipe: PrepareRecipe) -> str:
    """SHA-256 of the listing of the sources: names, sizes, times. Raises InputError when a source matches no file."""
    return sources.inventory(sources.list_files(recipe.data.sources))


def problems(recipe: PrepareRecipe) -> Iterator[Problem]:
    """Steps whose limits contradict each other, or that lack what they need."""
    for number, step in enumerate(recipe.data.steps):
        where = f"data.steps.{number}"
        for low, high in cleaning.BOUNDS:
            least, most = getattr(step, low, None), getattr(step, high, None)
            if least is not None and most is not None and least > most:
                yield Problem(f"{where}.{low}", least, f"exceeds {high} = {most}: no text fits both")
        if step.step == "decontaminate" and recipe.data.heldout is None:
            yield Problem("data.heldout", None, f"{where} needs the texts to look for: name a file or an artifact")


def check(recipe: PrepareRecipe, inputs: Mapping[str, Resolved]) -> None:
    """Raise InputError for settings that contradict each other or a tokenizer that cannot be used."""
    data = recipe.data
    if data.shard_tokens < data.seq_len:
        raise InputError(
            f"data.shard_tokens = {data.shard_tokens} holds no row of data.seq_len = {data.seq_len}: raise it"
        )
    if source := inputs.get("tokenizer.source"):
        tokenizer.facts(tokenizer.find(source.path))


def run(recipe: PrepareRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Read, clean, deduplicate, train the tokenizer, tokenise and pack. Each step skips what an earlier attempt finished."""
    folder, data = draft.folder, recipe.data
    if folder.exists(DONE):
        return _finished(draft)
    cluster.connect(recipe.resources.address, recipe.resources.cpus)
    at_once = recipe.resources.cpus if cluster.is_local() else cluster.total_cpus()

    cleaned = refine.refine(recipe, folder, at_once, progress)
    corpus = cleaned.corpus
    split = Split(corpus, dedup.is_validation(corpus.digests, data.validation_fraction, recipe.seed), recipe.seed)
    chosen = split.sample(recipe.tokenizer.train_chars)
    engine, chars_per_token = _tokenizer(recipe, draft, corpus, chosen, progress)
    known = tokenizer.facts(folder / "tokenizer")

    packed = _pack(recipe, folder, split, engine, known.eos_id, chars_per_token, at_once, progress)
    index = _index(data.seq_len, known, packed)
    figures = cleaned.figures | _figures(packed, index)
    if data.examples != "none":
        figures |= _examples(folder, packed)
    shards.save_index(folder, index)

    facts = {"fingerprint": corpus.fingerprint(), "content": dedup.content_hash(corpus.digests[corpus.kept])}
    folder.write_text(DONE, json.dumps({"figures": figures, "documents": facts}))
    return _finished(draft)


def _finished(draft: Draft) -> dict[str, Any]:
    """Record the documents, drop the intermediate files and return the figures. Safe to repeat after a kill."""
    done = json.loads(draft.folder.read_text(DONE))
    where = ", ".join(source["path"] for source in draft.manifest["recipe"]["data"]["sources"])
    draft.add_input("documents", kind="documents", ref=where, **done["documents"])
    for name in ("cleaned", "corpus", "quarantine", "packed", "examples", "half-written"):
        if draft.folder.exists(f"work/{name}"):
            draft.folder.clear(f"work/{name}")
    return dict(done["figures"])


# --- tokenizer -------------------------------------------------------------------------------------------------------


def _tokenizer(
    recipe: PrepareRecipe, draft: Draft, corpus: Corpus, chosen: Any, progress: Progress
) -> tuple[str, float]:
    """Train or copy the tokenizer. Returns the engine to encode with and the characters per token of a sample."""
    folder = draft.folder
    if not len(chosen):
        raise InputError(
            f"data.validation_fraction = {recipe.data.validation_fraction} leaves no document to train on: lower it"
        )
    if not folder.exists("tokenizer/tokenizer.json"):
        with folder.staged("tokenizer") as place:
            if source := draft.inputs.get("tokenizer.source"):
                tokenizer.copy(tokenizer.find(source.path), place)
            else:
                progress.note(f"training a tokenizer on {int(corpus.chars[chosen].sum()):,} characters")
                chosen_in_order = sorted(chosen.tolist())
                tokenizer.train(corpus.texts(folder, chosen_in_order), recipe.tokenizer.vocab_size, place)
    few = chosen[: max(1, int((corpus.chars[chosen].cumsum() <= SAMPLE_CHARS).sum()))]
    texts = list(corpus.texts(folder, sorted(few.tolist())))
    engines = tokenizer.encoders(folder.read_text("tokenizer/tokenizer.json"))
    engine = tokenizer.choose(engines, texts)
    num_tokens = sum(len(engines[engine](text)) for text in texts)
    return engine, sum(map(len, texts)) / max(1, num_tokens)


# --- tokenise and pack -----------------------------------------------------------------------------------------------


def _pack(
    recipe: PrepareRecipe,
    folder: Folder,
    division: Split,
    engine: str,
    eos_id: int,
    chars_per_token: float,
    at_once: int,
    progress: Progress,
) -> list[Item]:
    """Make every shard that is not there yet, one task each. Returns all summaries: training first, in order."""
    data, corpus = recipe.data, division.corpus
    wanted, done = [], []
    for split in SPLITS:
        indices = division.of(split)
        for number, (start, end) in enumerate(
            packing.ranges(corpus.chars[indices], data.shard_tokens * chars_per_token)
        ):
            if folder.exists(marker := work.packed_marker(split, number)):
                done.append(json.loads(folder.read_text(marker)))
                continue
            wanted.append(
                {"folder": folder.url, "split": split, "number": number, "pieces": corpus.pieces(indices[start:end]), "engine": engine,
                 "eos_id": eos_id, "seq_len": data.seq_len, "examples": data.examples}
            )  # fmt: skip
    total = int(corpus.chars[corpus.kept].sum())
    started, new_tokens = time.monotonic(), 0
    for summary in spread(work.pack_range, wanted, at_once):
        done.append(summary)
        new_tokens += summary["tokens"]
        rate = new_tokens / (time.monotonic() - started)
        progress.update(sum(s["chars"] for s in done), total, "characters tokenised", tokens_per_s=rate)
    return sorted(done, key=lambda summary: (SPLITS.index(summary["split"]), summary["number"]))


def _index(seq_len: int, known: tokenizer.Facts, packed: list[Item]) -> shards.Index:
    splits = {
        split: tuple(shards.Shard(**item["shard"]) for item in packed if item["split"] == split and item["shard"])
        for split in SPLITS
    }
    index = shards.Index(seq_len, known.vocab_size, known.eos_id, known.bos_id, known.pad_id, splits)
    for split, setting in (("train", "add documents"), ("validation", "raise data.validation_fraction")):
        tokens = sum(item["tokens"] for item in packed if item["split"] == split)
        if tokens and not index.rows(split):
            raise InputError(
                f"data.seq_len = {seq_len}: the {tokens} tokens of the {split} documents fill no row: lower it, or {setting}"
            )
    return index


def _figures(packed: list[Item], index: shards.Index) -> dict[str, Any]:
    chars, tokens = sum(item["chars"] for item in packed), sum(item["tokens"] for item in packed)
    return {
        "chars": chars,
        "tokens": tokens,
        "tokens_left_over": sum(item["left_over"] for item in packed),
        "train_rows": index.rows("train"),
        "validation_rows": index.rows("validation"),
        "vocab_size": index.vocab_size,
        "chars_per_token": round(chars / tokens, 4),
        "tokens_per_second": round(tokens / max(1e-9, sum(item["seconds"] for item in packed))),
    }


def _examples(folder: Folder, packed: list[Item]) -> dict[str, int]:
    """Gather the pairs that the tasks extracted, each input and target once. Returns how many each split has."""
    seen: set[bytes] = set()
    counts = {}
    for split in SPLITS:
        names = [f"work/examples/{split}-{item['number']:05}.parquet" for item in packed if item["split"] == split]
        rows = (row for name in names for row in shards.read_table(folder, name).to_pylist())
        pairs = list(examples.unique(((row["input"], row["target"]) for row in rows), seen))
        work.write_examples(folder, f"examples/{split}.parquet", pairs)
        counts[f"{split}_examples"] = len(pairs)
    if not counts["train_examples"]:
        raise InputError(
            "data.examples = 'docstring_summary': the documents hold no such pair: set data.examples=none or add a source of format docstrings"
        )
    return counts
