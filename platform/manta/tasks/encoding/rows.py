"""Examples as training rows: tokenised once, padded to one length, written as the shards that the training loop reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.data.shards import LENGTH, MULTIPLE, Index, Shard, save_index, write_shard
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.sections.tasks import RelationsTask
from manta.storage import Folder
from manta.tasks import ANSWERING, COMPARING, LABELLING, TASKS, WINDOWED, embedding, examples, labels, relations
from manta.tasks.encoding import conversation, packing, seq2seq
from manta.tasks.encoding import labelled as encoding
from manta.tasks.encoding.conversation import IGNORED, Encoded
from manta.tasks.labels import Labels, Row

ROWS_PER_SHARD = 8192
NAMED = 12  # labels in a sentence

Found = dict[str, list[dict[str, Any]]]  # split -> its examples


def check(recipe: FinetuneRecipe, inputs: dict[str, Resolved]) -> None:
    """Raise InputError for what is wrong with the examples or with the model's tokenizer, before anything starts."""
    model = inputs["model.source"]
    folder = Folder(model.path if model.kind == "directory" else f"{model.path}/model")
    packing.check(recipe, None if model.kind == "package" else folder)
    loaded = examples.check(inputs, recipe.data, recipe.task)
    collect(recipe, chosen(recipe, loaded))
    if recipe.task.name in LABELLING or recipe.task.name == "embedding":
        return
    if model.kind == "package":
        return
    config = json.loads(folder.read_text("config.json")) if folder.exists("config.json") else {}
    seq2seq.refuse_unread(recipe.task, config)
    if seq2seq.reads_apart(config):
        return
    if not folder.exists("chat_template.jinja") and '"chat_template"' not in folder.read_text("tokenizer_config.json"):
        raise InputError(
            f"model.source = {model.ref!r}: {folder.url} has no chat template, so a question cannot be put to it: "
            "add chat_template.jinja to that folder"
        )


def chosen(recipe: FinetuneRecipe, loaded: examples.Loaded) -> Found:
    """The examples of both splits that a recipe uses."""
    return {"train": examples.choose(loaded.train, recipe.data.train_rows), "validation": loaded.validation}


def collect(recipe: FinetuneRecipe, found: Found) -> Labels | None:
    """The labels of the training examples; None for tasks that answer. Raises InputError for what cannot be learnt."""
    if recipe.task.name == "embedding":
        embedding.refuse_mixed([*found["train"], *found["validation"]])
    if recipe.task.name not in LABELLING:
        return None
    if recipe.task.name in WINDOWED:
        return labels.ENDS
    task = LABELLING[recipe.task.name]

    def named(example: labels.Example) -> list[str]:
        return list(task.named(example, recipe.task))

    known = labels.collect(found["train"], named, task.problem(recipe.task))
    if len(known.names) < (1 if known.problem == "multi_label_classification" else 2):
        have = f"only the label {known.names[0]!r}" if known.names else "no labels"
        raise InputError(
            f"data.examples: the {len(found['train'])} training examples have {have}, so there is nothing to tell apart: add "
            "examples of other labels, or raise data.train_rows"
        )
    labels.refuse_unknown(known, found["validation"], named)
    if isinstance(recipe.task, RelationsTask):
        relations.refuse_unknown_none(recipe.task, known)
    return known


def write(recipe: FinetuneRecipe, inputs: examples.Inputs, model: Path, folder: Folder, progress: Progress) -> None:
    """Write train/*.parquet and validation/*.parquet below `folder`, labels.json for tasks that label, last shards.json.

    Columns are int32, fixed-size lists or single numbers: `input_ids` and what else the task's `encode` gives. Those
    along the row are padded on the right to seq_len, the length of the longest example, and `length` says what a row
    holds before that; labels are -100 where nothing is to be learnt, and not shifted. With batch.packing the longest
    example is the row that several share, and `position_ids` begin anew with each. `inputs` say where the examples are,
    `model` is the local Hugging Face directory with the tokenizer. Raises InputError when there is nothing to learn from, a
    label never occurs in what is learnt, or an example exceeds the model's positions.
    """
    more = getattr(TASKS[recipe.task.name], "TOKENS", ())
    tokenizer = labels.tokenizer(model, more)
    if more:
        with folder.staged("tokenizer") as target:
            tokenizer.save_pretrained(target)
    loaded = examples.load(inputs, recipe.data, recipe.task)
    for doubt in loaded.notes:
        progress.note(doubt)
    found = chosen(recipe, loaded)
    known = collect(recipe, found)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    task, apart = TASKS[recipe.task.name], seq2seq.teaches(recipe.task, config)
    encoded: dict[str, Any] = (
        seq2seq.rows_of(found, tokenizer, recipe.task, config, task)
        if apart
        else encode(recipe, found, tokenizer, known, loaded.where)
    )
    report = {split: statistics(rows) for split, rows in encoded.items()}
    seq_len = _row_length(recipe, encoded, model)
    told = TASKS[recipe.task.name].describe(report["train"], seq_len) if recipe.task.name in COMPARING else None
    target_len = len(encoded["train"][0].columns["labels"]) if apart else None
    if target_len is not None:
        told = seq2seq.describe(report["train"], seq_len, target_len)
    progress.note(told or describe(report["train"], seq_len, known), **report["train"])
    _refuse_empty(report, inputs["data.examples"].path)
    if known is not None:
        if recipe.task.name in WINDOWED:
            WINDOWED[recipe.task.name].keep(found["validation"], recipe.task, folder)
        else:
            labels.refuse_unlearnt(
                known, _occurs(encoded["train"], known), "raise task.max_tokens if its words are cut off"
            )
        labels.save(known, folder)
    pad_id = labels.filler(tokenizer)
    if recipe.batch.packing:
        packing.check(recipe, Folder(model))  # which a package's model had not been yet
        packed = {split: packing.pack(rows, seq_len) for split, rows in encoded.items()}
        progress.note(packing.told(packed, encoded, seq_len))
        encoded = packed
    ids = {name: pad_id for name in encoded["train"][0].columns if name.endswith("input_ids")}
    usual = packing.PADDED if recipe.batch.packing else {"labels": IGNORED}
    padded = {**ids, **(seq2seq.PADDED if apart else getattr(task, "PADDED", usual))}
    splits = {split: _write_split(folder, split, rows, seq_len, padded) for split, rows in encoded.items()}
    folder.write_text("report.json", json.dumps(report, indent=2) + "\n")
    index = Index(
        seq_len=seq_len,
        vocab_size=len(tokenizer),
        eos_id=tokenizer.eos_token_id,
        bos_id=tokenizer.bos_token_id,
        pad_id=pad_id,
        splits=splits,
        layout="examples",
        columns=tuple(encoded["train"][0].columns),
        padded=tuple(name for name in encoded["train"][0].columns if name in padded),
        target_len=target_len,
    )
    save_index(folder, index)


def encode(
    recipe: FinetuneRecipe,
    found: Found,
    tokenizer: Any,
    known: Labels | None,
    where: Callable[[labels.Example], str] = labels.shown,
) -> dict[str, list[Encoded] | list[Row]]:
    """All examples of both splits as the task's rows. Raises InputError that says `where` those are that cannot be used."""
    task = TASKS[recipe.task.name]
    if recipe.task.name in ANSWERING:
        conversation.end_token(tokenizer)  # refuses a template whose answers have no end
    if recipe.task.name not in LABELLING:
        return {split: [task.encode(each, tokenizer, recipe.task) for each in some] for split, some in found.items()}
    assert known is not None
    return {split: encoding.rows_of(recipe.task, some, tokenizer, known, where) for split, some in found.items()}


def statistics(rows: Sequence[Encoded] | Sequence[Row]) -> dict[str, Any]:
    """Rows, tokens without padding, how many labels are learnt (and which share of the tokens), the share of rows cut."""
    tokens = sum(len(row.columns["input_ids"]) for row in rows)
    trained = sum(label != IGNORED for row in rows for label in _labels_of(row))
    return {
        "rows": len(rows),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": round(trained / tokens, 4) if tokens else 0.0,
        "truncated_share": round(sum(row.truncated for row in rows) / len(rows), 4) if rows else 0.0,
    }


def describe(figures: dict[str, Any], seq_len: int, known: Labels | None = None) -> str:
    """The statistics of a split in a sentence."""
    begin = f"{figures['rows']:,} training rows of at most {seq_len} tokens; "
    end = f", {figures['truncated_share']:.1%} of the examples are cut"
    if known == labels.ENDS:
        return (
            f"{begin}windows of contexts, {figures['truncated_share']:.1%} of them with an answer that none holds whole"
        )
    if known is None:
        return f"{begin}{figures['trained_share']:.1%} of {figures['tokens']:,} tokens are learnt{end}"
    names = ", ".join(known.names[:NAMED]) + ", ..." * (len(known.names) > NAMED)
    return f"{begin}{figures['trained_tokens']:,} labels to learn, of {len(known.names)} kinds ({names}){end}"


def pad(rows: Sequence[Sequence[int]], seq_len: int, filler: int) -> Any:
    """Rows of any length as an array (rows, seq_len) int32, filled up on the right."""
    import numpy as np

    padded = np.full((len(rows), seq_len), filler, dtype=np.int32)
    for position, row in enumerate(rows):
        padded[position, : len(row)] = row
    return padded


def stacked(rows: Sequence[Encoded] | Sequence[Row], seq_len: int, padded: dict[str, int]) -> dict[str, Any]:
    """The columns of rows as int32 arrays: those that `padded` names (rows, seq_len), others (rows,) or (rows, n)."""
    import numpy as np

    return {
        name: pad([row.columns[name] for row in rows], seq_len, padded[name])
        if name in padded
        else np.array([row.columns[name] for row in rows], dtype=np.int32)
        for name in rows[0].columns
    }


def lengths(rows: Sequence[Any], padded: Mapping[str, int]) -> Any:
    """What each row holds before it is filled up, the longest of its columns: int32 (rows,)."""
    import numpy as np

    along = [name for name in rows[0].columns if name in padded]
    return np.array([max(len(row.columns[name]) for name in along) for row in rows], dtype=np.int32)


def _labels_of(row: Encoded | Row) -> list[int]:
    """The labels of a row as a list, a single one too."""
    found = row.columns["labels" if "labels" in row.columns else "start_positions"]
    return found if isinstance(found, list) else [found]


def _occurs(rows: Sequence[Encoded] | Sequence[Row], known: Labels) -> list[int]:
    """How often each label holds in rows."""
    if known.problem == "multi_label_classification":
        return [sum(column) for column in zip(*(_labels_of(row) for row in rows), strict=True)]
    counts = Counter(label for row in rows for label in _labels_of(row))
    return [counts[number] for number in range(len(known.names))]


def _refuse_empty(report: dict[str, dict[str, Any]], path: str) -> None:
    for split, figures in report.items():
        if not figures["trained_tokens"]:
            raise InputError(
                f"data.examples: in the {figures['rows']} {split} rows of {path} no token is left to learn: check that the "
                "answers are not empty, and raise task.max_tokens if they are cut off"
            )


def _write_split(
    folder: Folder, split: str, rows: list[Encoded] | list[Row], seq_len: int, padded: dict[str, int]
) -> tuple[Shard, ...]:
    shards = []
    for number, start in enumerate(range(0, len(rows), ROWS_PER_SHARD)):
        part = rows[start : start + ROWS_PER_SHARD]
        columns = stacked(part, seq_len, padded)
        columns[LENGTH] = lengths(part, padded)
        shards.append(write_shard(folder, f"{split}/{number:05d}.parquet", columns))
    return tuple(shards)


def _row_length(recipe: FinetuneRecipe, encoded: dict[str, list[Encoded] | list[Row]], model: Path) -> int:
    longest = max((len(row.columns["input_ids"]) for rows in encoded.values() for row in rows), default=0)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    learnt = None if seq2seq.reads_apart(config) else config.get("n_positions")  # T5's are relative, whatever it names
    positions = config.get("max_position_embeddings") or learnt
    if positions is not None and longest > positions:
        setting = "max_input_tokens" if hasattr(recipe.task, "max_input_tokens") else "max_tokens"
        raise InputError(
            f"task.{setting} = {getattr(recipe.task, setting)}: the longest example has {longest} tokens, "
            f"the model takes {positions}: lower task.{setting}"
        )
    rounded = -(-longest // MULTIPLE) * MULTIPLE
    return min(rounded, positions) if positions is not None else rounded
