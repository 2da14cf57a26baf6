"""Examples as training rows: tokenised once, padded to one length, written as the shards that the training loop reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.data.shards import Index, Shard, save_index, write_shard
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import FinetuneRecipe, TuneRecipe
from manta.storage import Folder
from manta.tasks import TASKS, conversation, examples
from manta.tasks.conversation import IGNORED, Encoded

ROWS_PER_SHARD = 8192
MULTIPLE = 8  # row lengths are rounded up to it: vector units like it


def check(recipe: FinetuneRecipe | TuneRecipe, inputs: dict[str, Resolved]) -> None:
    """Raise InputError for what is wrong with the examples or with the model's tokenizer, before anything starts."""
    examples.check(inputs["data.examples"].path, recipe.task.name, recipe.data.validation_fraction)
    model = inputs["model.source"]
    if model.kind == "package":
        return
    folder = Folder(model.path if model.kind == "directory" else f"{model.path}/model")
    if not folder.exists("chat_template.jinja") and '"chat_template"' not in folder.read_text("tokenizer_config.json"):
        raise InputError(
            f"model.source = {model.ref!r}: {folder.url} has no chat template, so a question cannot be put to it: "
            "add chat_template.jinja to that folder"
        )


def write(recipe: FinetuneRecipe, path: str, model: Path, folder: Folder, progress: Progress) -> None:
    """Write train/*.parquet and validation/*.parquet below `folder`, and last shards.json.

    Columns input_ids and labels, both fixed_size_list<int32>[seq_len], padded on the right; labels are -100 where
    nothing is to be learnt, and not shifted. seq_len is that of the longest example. `path` is what data.examples
    names, `model` the local Hugging Face directory with the tokenizer. Raises InputError when there is nothing to
    learn from or an example exceeds the model's positions.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    conversation.end_token(tokenizer)  # refuses a template whose answers have no end
    task = TASKS[recipe.task.name]
    encoded: dict[str, list[Encoded]] = {}
    for split in examples.SPLITS:
        found = examples.read(path, split, recipe.data.validation_fraction)
        chosen = examples.choose(found, recipe.data.train_rows if split == "train" else None)
        encoded[split] = [task.encode(example, tokenizer, recipe.task) for example in chosen]
    report = {split: statistics(rows) for split, rows in encoded.items()}
    seq_len = _row_length(recipe, encoded, model)
    progress.note(describe(report["train"], seq_len), **report["train"])
    for split in examples.SPLITS:
        if not report[split]["trained_tokens"]:
            raise InputError(
                f"data.examples: in the {report[split]['rows']} {split} rows of {path} no token is left to learn: check that the "
                "answers are not empty, and raise task.max_tokens if they are cut off"
            )
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    splits = {split: _write_split(folder, split, rows, seq_len, pad_id) for split, rows in encoded.items()}
    folder.write_text("report.json", json.dumps(report, indent=2) + "\n")
    index = Index(
        seq_len=seq_len,
        vocab_size=len(tokenizer),
        eos_id=tokenizer.eos_token_id,
        bos_id=tokenizer.bos_token_id,
        pad_id=pad_id,
        splits=splits,
        layout="examples",
        columns=("input_ids", "labels"),
    )
    save_index(folder, index)


def statistics(rows: Sequence[Encoded]) -> dict[str, Any]:
    """Rows, tokens without padding, how many and which share of them are learnt, and the share of rows cut off."""
    tokens = sum(len(row.input_ids) for row in rows)
    trained = sum(label != IGNORED for row in rows for label in row.labels)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": round(trained / tokens, 4) if tokens else 0.0,
        "truncated_share": round(sum(row.truncated for row in rows) / len(rows), 4) if rows else 0.0,
    }


def describe(figures: dict[str, Any], seq_len: int) -> str:
    """The statistics of a split in a sentence."""
    return (
        f"{figures['rows']:,} training rows of at most {seq_len} tokens; {figures['trained_share']:.1%} of "
        f"{figures['tokens']:,} tokens are learnt, {figures['truncated_share']:.1%} of the examples are cut"
    )


def pad(rows: Sequence[Sequence[int]], seq_len: int, filler: int) -> Any:
    """Rows of any length as an array (rows, seq_len) int32, filled up on the right."""
    import numpy as np

    padded = np.full((len(rows), seq_len), filler, dtype=np.int32)
    for position, row in enumerate(rows):
        padded[position, : len(row)] = row
    return padded


def _write_split(folder: Folder, split: str, rows: list[Encoded], seq_len: int, pad_id: int) -> tuple[Shard, ...]:
    shards = []
    for number, start in enumerate(range(0, len(rows), ROWS_PER_SHARD)):
        part = rows[start : start + ROWS_PER_SHARD]
        columns = {
            "input_ids": pad([row.input_ids for row in part], seq_len, pad_id),
            "labels": pad([row.labels for row in part], seq_len, IGNORED),
        }
        shards.append(write_shard(folder, f"{split}/{number:05d}.parquet", columns))
    return tuple(shards)


def _row_length(recipe: FinetuneRecipe, encoded: dict[str, list[Encoded]], model: Path) -> int:
    longest = max((len(row.input_ids) for rows in encoded.values() for row in rows), default=0)
    positions = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    if positions is not None and longest > positions:
        setting = "task.max_tokens" if recipe.task.name == "chat" else "task.max_input_tokens"
        raise InputError(
            f"{setting} = {getattr(recipe.task, setting.removeprefix('task.'))}: the longest example has {longest} tokens, "
            f"the model takes {positions}: lower {setting}"
        )
    rounded = -(-longest // MULTIPLE) * MULTIPLE
    return min(rounded, positions) if positions is not None else rounded
