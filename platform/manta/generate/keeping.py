"""What is kept of a teacher's answers: examples or rows of the form that training reads, and an account of the rest."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from manta.artifact import Resolved
from manta.data.shards import COLUMN, Shard, load_index, read_rows, save_index, write_shard, write_table
from manta.generate.judging import Answer, fault
from manta.generate.prompts import SPLIT, Asked, Prompt
from manta.schema import GenerateRecipe
from manta.storage import Folder
from manta.tasks import TASKS

DROPPED = "dropped/answers.parquet"
SHARD_TOKENS = 1 << 20
HELD_OUT = "validation"


@dataclass
class Kept:
    """Of each question the answers that are kept, as text and as tokens, and why others were not.

    `dropped` are (number of the question, reason, text), to be looked at.
    """

    texts: list[list[str]]
    ids: list[list[list[int]]]
    dropped: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(map(len, self.texts))

    @property
    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(reason for _, reason, _ in self.dropped).items()))


def sort(recipe: GenerateRecipe, asked: Asked, answers: Sequence[Answer], tokenizer: Any) -> Kept:
    """Judge each answer; `answers` are those of `writing.asks`, in its order.

    Reasons are those of `judging.fault`, `too_long` (the question left no room for an answer) and `repeated` (another
    sample was the same).
    """
    found = Kept([[] for _ in asked.prompts], [[] for _ in asked.prompts])
    task = None if recipe.task is None else TASKS[recipe.task.name]
    for number, answer in _numbered(recipe, asked.prompts, answers):
        if answer is None:
            found.dropped.append((number, "too_long", ""))
            continue
        text = tokenizer.decode(answer.ids, skip_special_tokens=True)
        text = text if task is None else task.decode(text)
        reason = fault(answer, text, recipe.generate.max_repetition, whole=task is not None)
        if reason is None and text in found.texts[number]:
            reason = "repeated"
        if reason is None:
            found.texts[number].append(text)
            found.ids[number].append(answer.ids)
        else:
            found.dropped.append((number, reason, text))
    return found


def _numbered(
    recipe: GenerateRecipe, prompts: Sequence[Prompt], answers: Sequence[Answer]
) -> Iterator[tuple[int, Answer | None]]:
    waiting = iter(answers)
    for number, prompt in enumerate(prompts):
        for _ in range(recipe.generate.samples):
            yield number, next(waiting) if prompt.limit else None


def write_dropped(folder: Folder, kept: Kept) -> None:
    """Leave what was left out: the question's number, the reason, the text."""
    import pyarrow as pa

    types = {"question": pa.int64(), "reason": pa.string(), "text": pa.string()}
    columns = zip(*kept.dropped, strict=True) if kept.dropped else ((), (), ())
    table = pa.table({name: pa.array(values, type=types[name]) for name, values in zip(types, columns, strict=True)})
    write_table(folder, DROPPED, table)


# --- examples --------------------------------------------------------------------------------------------------------


def write_examples(folder: Folder, asked: Asked, held_out: Sequence[Mapping[str, Any]], kept: Kept) -> dict[str, int]:
    """Write examples/train.parquet and examples/validation.parquet, as `prepare` does; returns how many each holds.

    `held_out` have answers of their own.
    """
    made: dict[str, list[dict[str, Any]]] = {SPLIT: [], HELD_OUT: [dict(example) for example in held_out]}
    for number, (example, texts) in enumerate(zip(asked.examples, kept.texts, strict=True)):
        made[SPLIT if number < asked.train else HELD_OUT] += [with_answer(example, text) for text in texts]
    talks = any("messages" in example for some in made.values() for example in some)
    for split, some in made.items():
        write_table(folder, f"examples/{split}.parquet", _table(some, talks))
    return {f"{split}_examples": len(some) for split, some in made.items()}


def with_answer(example: Mapping[str, Any], text: str) -> dict[str, Any]:
    """An example with this answer in place of its own; earlier turns stay."""
    if "messages" not in example:
        return {**example, "target": text}
    said = list(example["messages"])
    if said[-1]["role"] == "assistant":
        said.pop()
    return {"messages": [*said, {"role": "assistant", "content": text}]}


def _table(some: Sequence[Mapping[str, Any]], talks: bool) -> Any:
    """Questions and answers; as conversations where one of them is longer."""
    import pyarrow as pa

    if not talks:
        texts = {name: pa.array([example[name] for example in some], type=pa.string()) for name in ("input", "target")}
        return pa.table(texts)
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.table({"messages": pa.array([_messages(example) for example in some], type=pa.list_(turn))})


def _messages(example: Mapping[str, Any]) -> list[dict[str, str]]:
    if "messages" in example:
        return list(example["messages"])
    said = (("user", example["input"]), ("assistant", example["target"]))
    return [{"role": role, "content": content} for role, content in said]


# --- rows ------------------------------------------------------------------------------------------------------------


def write_rows(folder: Folder, source: Resolved, asked: Asked, kept: Kept) -> dict[str, int]:
    """Write shards with the tokenizer and the held-out rows of `source`; returns rows and tokens that fill none.

    A continuation that has not ended fills a row. Those that have are put one after the other, in order, and cut into rows.
    """
    index, shards = load_index(source.path), Folder(source.path)
    documents = [prompt.ids + ids for prompt, many in zip(asked.prompts, kept.ids, strict=True) for ids in many]
    rows, left_over = packed(documents, index.seq_len)
    step = max(1, SHARD_TOKENS // index.seq_len)
    train = tuple(
        write_shard(folder, f"train/{number:05d}.parquet", {COLUMN: rows[first : first + step]})
        for number, first in enumerate(range(0, len(rows), step))
    )
    held_out = tuple(_copied(shards, folder, shard) for shard in index.splits.get(HELD_OUT, ()))
    with shards.local("tokenizer") as tokenizer, folder.staged("tokenizer") as place:
        shutil.copytree(tokenizer, place, dirs_exist_ok=True)
    save_index(folder, replace(index, splits={SPLIT: train, HELD_OUT: held_out}, mixture=()))
    return {"train_rows": len(rows), "validation_rows": index.rows(HELD_OUT), "tokens_left_over": left_over}


def packed(documents: Sequence[Sequence[int]], seq_len: int) -> tuple[np.ndarray, int]:
    """Rows int32 (rows, seq_len), and how many tokens are left over: what fills a row stands alone, the rest is one stream."""
    whole = [row for row in documents if len(row) == seq_len]
    stream = np.fromiter((token for row in documents if len(row) != seq_len for token in row), dtype=np.int32)
    cut = len(stream) // seq_len * seq_len
    alone = np.array(whole, dtype=np.int32).reshape(-1, seq_len)
    return np.concatenate([alone, stream[:cut].reshape(-1, seq_len)]), len(stream) - cut


def _copied(source: Folder, folder: Folder, shard: Shard) -> Shard:
    return write_shard(folder, shard.path, {COLUMN: read_rows(source, shard.path)})
