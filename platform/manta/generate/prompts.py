"""What a teacher is asked: questions of a task through its own chat template, or the beginnings of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.artifact import Resolved
from manta.data.sample import sample_rows
from manta.data.shards import load_index
from manta.schema import GenerateRecipe
from manta.storage import Folder
from manta.tasks import TASKS, examples
from manta.tasks.encoding import conversation, seq2seq

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEEDS = 1 << 31  # below it: what vLLM and torch alike take
SPLIT = "train"


class Prompt(NamedTuple):
    """A question as token ids, and how many new tokens its answer may have; 0 where the teacher has no room for one."""

    ids: list[int]
    limit: int


class Asked(NamedTuple):
    """The questions in order. Those of examples come with their examples, of which the first `train` are trained on."""

    prompts: list[Prompt]
    examples: list[dict[str, Any]]
    train: int


def seed_of(seed: int, ids: Sequence[int], sample: int) -> int:
    """What the answer to a question is drawn by: its own tokens decide, so that it does not depend on what stands beside it."""
    data = f"{seed} {sample} ".encode() + b",".join(b"%d" % token for token in ids)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % SEEDS


def of_rows(recipe: GenerateRecipe, shards: Resolved) -> Asked:
    """The beginnings of training rows, chosen by seed; each is continued until it ends or fills the row."""
    index, given = load_index(shards.path), recipe.generate.given
    count = min(recipe.data.train_rows or index.rows(SPLIT), index.rows(SPLIT))
    rows = sample_rows(Folder(shards.path), SPLIT, count, recipe.seed)[:, :given]
    return Asked([Prompt(row, index.seq_len - given) for row in rows.tolist()], [], count)


def of_examples(
    recipe: GenerateRecipe,
    inputs: Mapping[str, Resolved],
    tokenizer: PreTrainedTokenizerBase,
    config: Mapping[str, Any],
) -> tuple[Asked, list[dict[str, Any]]]:
    """The questions of the training examples, and of those held out that have no answer; and those that have one."""
    assert recipe.task is not None
    if seq2seq.reads_apart(config):
        seq2seq.check(tokenizer, config)
    loaded = examples.load(inputs, recipe.data, recipe.task, unanswered=True)
    train = examples.choose(loaded.train, recipe.data.train_rows)
    kept = [example for example in loaded.validation if answered(example)]
    chosen = [*train, *(example for example in loaded.validation if not answered(example))]
    return Asked([_prompt(recipe, example, tokenizer, config) for example in chosen], chosen, len(train)), kept


def answered(example: Mapping[str, Any]) -> bool:
    """Whether an example holds an answer of its own."""
    if "messages" in example:
        return bool(example["messages"][-1]["role"] == "assistant")
    return example.get("target") is not None


def _prompt(
    recipe: GenerateRecipe,
    example: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    config: Mapping[str, Any],
) -> Prompt:
    assert recipe.task is not None
    task, settings, positions = TASKS[recipe.task.name], recipe.task, config.get("max_position_embeddings")
    wanted = task.max_new_tokens(settings)
    if seq2seq.reads_apart(config):
        ids, _ = seq2seq.question(example, tokenizer, settings, config, task)
        return Prompt(ids, min(wanted, positions or wanted))
    text = conversation.render(task.question(example, tokenizer, settings), tokenizer, answering=True)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Prompt(ids, wanted if positions is None else max(0, min(wanted, positions - len(ids))))
