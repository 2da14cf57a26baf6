"""From clean documents to shards: the tokenizer, packed rows, supervised examples; each shard is one task."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from manta.artifact import Draft
from manta.data import examples, mixture, packing, shards, tokenizer, work
from manta.data.corpus import Corpus, Split
from manta.data.layouts import denoising
from manta.data.spread import Item, spread
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.storage import Folder

SPLITS = ("train", "validation")
# What the fast encoder is checked on, and what characters per token are measured on.
SAMPLE_CHARS = 300_000


def tokenise(recipe: PrepareRecipe, draft: Draft, corpus: Corpus, at_once: int, progress: Progress) -> dict[str, Any]:
    """Make the tokenizer, the shards, their index and the examples. Returns their figures."""
    folder, data = draft.folder, recipe.data
    split = Split.by_hash(corpus, data.validation_fraction, recipe.seed)
    chosen = split.sample(recipe.tokenizer.train_chars)
    engine, chars_per_token = _tokenizer(recipe, draft, corpus, chosen, progress)
    _report(folder, split)
    known = tokenizer.facts(folder / "tokenizer")
    packed = _pack(recipe, folder, split, engine, chars_per_token, at_once, progress)
    index = _index(recipe, known, packed)
    figures = _figures(packed, index)
    if data.examples != "none":
        figures |= _examples(folder, packed)
    shards.save_index(folder, index)
    return figures


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
            source = draft.inputs.get("tokenizer.source")
            if source is None:
                progress.note(f"training a tokenizer on {int(corpus.chars[chosen].sum()):,} characters")
            drawn = corpus.texts(folder, sorted(chosen.tolist()))
            tokenizer.make(recipe.tokenizer, tokenizer.find(source.path) if source else None, drawn, place)
    few = chosen[: max(1, int((corpus.chars[chosen].cumsum() <= SAMPLE_CHARS).sum()))]
    texts = list(corpus.texts(folder, sorted(few.tolist())))
    engines = tokenizer.encoders(folder.read_text("tokenizer/tokenizer.json"))
    engine = tokenizer.choose(engines, texts)
    num_tokens = sum(len(engines[engine](text)) for text in texts)
    return engine, sum(map(len, texts)) / max(1, num_tokens)


def _report(folder: Folder, split: Split) -> None:
    """Measure the tokenizer on held-out documents, which it was not trained on, where there are any."""
    corpus, held = split.corpus, split.of("validation")
    few = held[: int((corpus.chars[held].cumsum() <= SAMPLE_CHARS).sum())]
    if folder.exists("tokenizer/report.json") or not len(few):
        return
    rows = [row for piece in corpus.pieces(few) for row in work.take(folder, [piece]).to_pylist()]
    texts, languages, origins = ([row[name] for row in rows] for name in ("text", "language", "source"))
    found = tokenizer.report(folder.read_text("tokenizer/tokenizer.json"), texts, languages, origins)
    folder.write_text("tokenizer/report.json", json.dumps(found, indent=2) + "\n")


# --- tokenise and pack -----------------------------------------------------------------------------------------------


def _pack(
    recipe: PrepareRecipe,
    folder: Folder,
    division: Split,
    engine: str,
    chars_per_token: float,
    at_once: int,
    progress: Progress,
) -> list[Item]:
    """Make every shard that is not there yet, one task each. Returns all summaries: training first, in order."""
    data, corpus = recipe.data, division.corpus
    ranges = [
        (split, number, source, indices)
        for split in SPLITS
        for number, (source, indices) in enumerate(_ranges(recipe, division, split, chars_per_token))
    ]
    markers = [work.packed_marker(split, number) for split, number, _, _ in ranges]
    finished = [folder.exists(marker) for marker in markers]
    done = [json.loads(folder.read_text(marker)) for marker, there in zip(markers, finished, strict=True) if there]
    wanted = (
        {"folder": folder.url, "split": split, "number": number, "pieces": corpus.pieces(indices), "engine": engine,
         "seq_len": data.seq_len, "layout": data.layout.model_dump(), "seed": _seed(recipe.seed, split, number),
         "examples": data.examples, "source": source}
        for (split, number, source, indices), there in zip(ranges, finished, strict=True) if not there
    )  # fmt: skip
    total = int(corpus.chars[corpus.kept].sum())
    started, new_tokens = time.monotonic(), 0
    for summary in spread(work.pack_range, wanted, at_once):
        done.append(summary)
        new_tokens += summary["tokens"]
        rate = new_tokens / (time.monotonic() - started)
        progress.update(sum(s["chars"] for s in done), total, "characters tokenised", tokens_per_s=rate)
    return sorted(done, key=lambda summary: (SPLITS.index(summary["split"]), summary["number"]))


def _seed(seed: int, split: str, number: int) -> int:
    """A seed of its own for each shard."""
    return int(np.random.SeedSequence([seed, SPLITS.index(split), number]).generate_state(1, np.uint64)[0])


def _ranges(
    recipe: PrepareRecipe, division: Split, split: str, chars_per_token: float
) -> Iterator[tuple[str, np.ndarray]]:
    """(source, documents) of each shard. With weights no training row holds two sources; else the source is ""."""
    data, corpus, indices = recipe.data, division.corpus, division.of(split)
    groups = [("", indices)]
    if split == "train" and data.sources[0].weight is not None:
        known = {source: number for number, source in enumerate(corpus.sources)}
        groups = [
            (source.path, indices[corpus.source[indices] == known.get(source.path, -1)]) for source in data.sources
        ]
    for source, mine in groups:
        for start, end in packing.ranges(corpus.chars[mine], data.shard_tokens * chars_per_token):
            yield source, mine[start:end]


def _mixture(recipe: PrepareRecipe, packed: list[Item]) -> tuple[shards.Share, ...]:
    """What an epoch shows of each source, () without weights. Raises InputError for a source that fills no row."""
    sources = recipe.data.sources
    weights = [source.weight for source in sources if source.weight is not None]
    if not weights:
        return ()
    rows = {source.path: 0 for source in sources}
    for item in packed:
        if item["split"] == "train" and item["shard"]:
            rows[item["source"]] += item["shard"]["rows"]
    for number, (source, count) in enumerate(rows.items()):
        if not count:
            raise InputError(
                f"data.sources.{number}.weight = {weights[number]:g}: nothing is left of {source} to fill a row with: "
                "loosen data.steps, or take the source out"
            )
    shown = mixture.quotas(list(rows.values()), weights, recipe.data.max_repeats)
    return tuple(shards.Share(source, count, quota) for (source, count), quota in zip(rows.items(), shown, strict=True))


def _index(recipe: PrepareRecipe, known: tokenizer.Facts, packed: list[Item]) -> shards.Index:
    seq_len = recipe.data.seq_len
    splits = {
        split: tuple(shards.Shard(**item["shard"]) for item in packed if item["split"] == split and item["shard"])
        for split in SPLITS
    }
    mixed = _mixture(recipe, packed)
    layout = recipe.data.layout
    noise, columns = None, next((item["columns"] for item in packed if item["shard"]), [shards.COLUMN])
    if layout.kind == "denoising":
        noise = denoising.noise(layout, seq_len, known)
    index = shards.Index(
        seq_len,
        known.vocab_size,
        known.eos_id,
        known.bos_id,
        known.pad_id,
        splits,
        mixed,
        layout.kind,
        tuple(columns),
        noise,
    )
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
        "tokens_padded": (padded := sum(item["padding"] for item in packed)),
        "padded_share": round(padded / max(1, index.tokens("train") + index.tokens("validation")), 5),
        "documents_cut": sum(item["documents_cut"] for item in packed),
        "train_rows": index.rows("train"),
        "epoch_rows": index.epoch_rows(),
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
