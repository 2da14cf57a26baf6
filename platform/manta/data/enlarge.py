"""Adds the variants that `data.augment` asks for to the training documents of a clean corpus, unit by unit over Ray."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pydantic import TypeAdapter

from manta.artifact import Draft
from manta.data import augment, dedup, packing, shards, work
from manta.data.corpus import Corpus, Split, enlarged
from manta.data.spread import Item, spread
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.sections.augment import Augmentation, BackTranslate, Rewrite
from manta.storage import Folder

# Characters of a unit: what models write takes long, and a unit that broke off is asked for again.
UNIT_CHARS, WRITTEN_UNIT_CHARS = 8_000_000, 200_000


def enlarge(
    recipe: PrepareRecipe, draft: Draft, corpus: Corpus, at_once: int, progress: Progress
) -> tuple[Corpus, dict[str, Any]]:
    """The corpus with its variants, and the figures that count them. Validation documents have none.

    A variant whose text the corpus has already, on either side, is left out. Units that an earlier attempt finished
    are not done again.
    """
    folder = draft.folder
    train = Split.by_hash(corpus, recipe.data.validation_fraction, recipe.seed).of("train")
    written = any(isinstance(settings, (Rewrite, BackTranslate)) for settings in recipe.data.augment)
    units = packing.ranges(corpus.chars[train], WRITTEN_UNIT_CHARS if written else UNIT_CHARS)
    common = {"folder": folder.url, "augment": _located(recipe, draft), "seed": recipe.seed}
    todo, done = [], []
    for number, (start, end) in enumerate(units):
        if folder.exists(marker := _marker(number)):
            done.append(json.loads(folder.read_text(marker)))
        else:
            todo.append(common | {"number": number, "pieces": corpus.pieces(train[start:end])})
    documents = sum(unit["documents"] for unit in done)
    for summary in spread(vary, todo, at_once):
        done.append(summary)
        documents += summary["documents"]
        progress.update(
            documents, len(train), "documents augmented", variants=sum(sum(u["made"].values()) for u in done)
        )
    done.sort(key=lambda unit: int(unit["number"]))
    larger = enlarged(folder, corpus, [unit["path"] for unit in done])
    made, left_out = Counter[str](), Counter[str]()
    for unit in done:
        made.update(unit["made"])
        left_out.update(unit["left_out"])
    repeated = made.total() - (larger.num_kept - corpus.num_kept)
    if repeated:
        left_out["repeated"] = repeated
    progress.note(f"augment: {larger.num_kept - corpus.num_kept:,} variants of {len(train):,} documents")
    return larger, {"augmented": dict(sorted(made.items())), "augmented_left_out": dict(sorted(left_out.items()))}


def _marker(number: int) -> str:
    return f"{work.AUGMENTED}{number:05}.json"


def _located(recipe: PrepareRecipe, draft: Draft) -> list[dict[str, Any]]:
    """The augmentations with the places of their files and models in place of the names that the recipe gives them."""
    found = [settings.model_dump(mode="json") for settings in recipe.data.augment]
    for role, source in draft.inputs.items():
        if role.startswith("data.augment."):
            number, *path, name = role.removeprefix("data.augment.").split(".")
            place = found[int(number)]
            for key in path:
                place = place[key]
            place[name] = source.path
    return found


def vary(item: Item) -> Item:
    """Write the variants of a unit. `item`: folder, number, pieces, augment, seed. The marker comes last.

    A variant's id is its document's with the kind and number behind: `corpus/a.jsonl#7+characters-0`.
    """
    import pyarrow as pa

    folder = Folder(item["folder"])
    augmentations = TypeAdapter(list[Augmentation]).validate_python(item["augment"])
    rows = work.take(folder, item["pieces"]).to_pylist()
    texts = [row["text"] for row in rows]
    left_out, made = Counter[str](), Counter[str]()
    columns: dict[str, list[Any]] = {name: [] for name in (*work.Text._fields, "augmented", "digest", "chars")}
    for variant in augment.variants(
        texts,
        [row["language"] for row in rows],
        [dedup.digest(text) for text in texts],
        augmentations,
        item["seed"],
        left_out,
    ):
        row = rows[variant.document]
        made[variant.kind] += 1
        values = (
            f"{row['id']}+{variant.kind}-{variant.number}",
            row["source"],
            row["language"],
            variant.text,
            variant.kind,
        )
        for name, value in zip(columns, (*values, dedup.digest(variant.text), len(variant.text)), strict=True):
            columns[name].append(value)
    types = {"text": pa.large_string(), "digest": pa.binary(dedup.DIGEST_BYTES), "chars": pa.int64()}
    arrays = {name: pa.array(values, type=types.get(name, pa.string())) for name, values in columns.items()}
    path = f"{work.AUGMENTED}{item['number']:05}.parquet"
    shards.write_table(folder, path, pa.table(arrays), row_group_size=256)
    summary = {"number": item["number"], "path": path, "documents": len(rows), "made": made, "left_out": left_out}
    folder.write_text(_marker(item["number"]), json.dumps(summary))
    return summary
