"""Answering tasks for models with an encoder and a decoder: the encoder reads what is asked, the decoder learns the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from manta.data.shards import MULTIPLE
from manta.errors import InputError
from manta.sections.tasks import TextToText
from manta.tasks.encoding.conversation import IGNORED, Example
from manta.tasks.labels import Row

Config = Mapping[str, Any]  # the content of config.json
PADDED = {"attention_mask": 0}  # beside input_ids: what fills up a row; answers are filled up by `rows_of`


def reads_apart(config: Config) -> bool:
    """Whether a model reads question and answer apart, the one with an encoder and the other with a decoder."""
    return bool(config.get("is_encoder_decoder", config.get("model_type") in ("t5", "bart")))


def teaches(settings: Any, config: Config) -> bool:
    """Whether a task of these settings takes this module's form with a model of `config`."""
    return isinstance(settings, TextToText) and reads_apart(config)


def check(tokenizer: Any, config: Config) -> None:
    """Raise InputError for a model that cannot be taught to answer, or whose tokenizer wants to know languages by code."""
    where = tokenizer.name_or_path
    for name in ("decoder_start_token_id", "pad_token_id"):
        if config.get(name) is None:
            raise InputError(
                f"model.source: config.json beside {where} has no {name}, so it does not say what an answer starts from or is filled "
                "up with: set it there (T5: both that of the padding token; BART starts from the end of text)"
            )
    if end(tokenizer, config) is None:
        raise InputError(
            f"model.source: neither config.json nor the tokenizer of {where} names an end of text, so an answer would never end: "
            "set eos_token_id in config.json"
        )
    if hasattr(tokenizer, "src_lang"):
        raise InputError(
            f"model.source: the tokenizer of {where} ({type(tokenizer).__name__}) marks texts with codes of languages, which the task "
            "has no settings for: choose a model of type t5, mt5, bart or marian"
        )


def end(tokenizer: Any, config: Config) -> int | None:
    """The id that ends an answer: the one at which the model stops."""
    found = config.get("eos_token_id")
    return tokenizer.eos_token_id if found is None else int(found)


def source(example: Example, task: ModuleType, settings: Any, config: Config) -> str:
    """The text that the encoder reads: the example's input behind the task's prefix.

    That is settings.prefix, and without it the words that T5 was taught with (arXiv:1910.10683, appendix D) for models of
    type t5, nothing for others.
    """
    prefix = settings.prefix
    if prefix is None:
        prefix = task.prefix(settings) if config.get("model_type") == "t5" else ""
    return str(prefix + example["input"])


def encode(example: Example, tokenizer: Any, settings: Any, config: Config, task: ModuleType) -> Row:
    """Columns of one example: `input_ids` and `attention_mask`, each (seq,), and `labels` (target,), not shifted.

    The tokenizer sets its special tokens around both texts; where it has none, or ends an answer otherwise, the end of
    text follows. The encoder reads at most settings.max_input_tokens, the last of them a special one. An answer longer
    than settings.max_target_tokens is cut and has no end: the model must not learn to stop in mid-sentence.
    """
    ids, input_cut = question(example, tokenizer, settings, config, task)
    labels, last = list(tokenizer(text_target=example["target"])["input_ids"]), end(tokenizer, config)
    labels += [last] if labels[-1:] != [last] else []
    target_cut = len(labels) > settings.max_target_tokens + 1
    if target_cut:
        labels = labels[: settings.max_target_tokens]
    return Row({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}, input_cut or target_cut)


def rows_of(
    found: Mapping[str, Sequence[Example]], tokenizer: Any, settings: Any, config: Config, task: ModuleType
) -> dict[str, list[Row]]:
    """The rows of both splits, their answers filled up to one length. Raises InputError for what the model cannot take."""
    check(tokenizer, config)
    made = {split: [encode(each, tokenizer, settings, config, task) for each in some] for split, some in found.items()}
    every = [row.columns for rows in made.values() for row in rows]
    longest, target = (max((len(row[name]) for row in every), default=0) for name in ("input_ids", "labels"))
    refuse_long(longest, target, config, settings)
    width = min(-(-target // MULTIPLE) * MULTIPLE, config.get("max_position_embeddings") or math.inf)
    for row in every:
        row["labels"] += [IGNORED] * int(width - len(row["labels"]))
    return made


def describe(figures: Mapping[str, Any], seq_len: int, target_len: int) -> str:
    """The statistics of the training rows in a sentence."""
    return (
        f"{figures['rows']:,} training rows of at most {seq_len} tokens, and answers of at most {target_len}; {figures['trained_tokens']:,} "
        f"tokens are learnt, {figures['truncated_share']:.1%} of the examples are cut"
    )


def question(
    example: Example, tokenizer: Any, settings: Any, config: Config, task: ModuleType
) -> tuple[list[int], bool]:
    """The ids that the encoder reads, and whether the text was cut."""
    text, limit = source(example, task, settings, config), settings.max_input_tokens
    ids = list(tokenizer(text)["input_ids"])
    if tokenizer.num_special_tokens_to_add() == 0:
        last = end(tokenizer, config)
        return [*ids[: limit - 1], last], len(ids) >= limit
    if len(ids) <= limit:
        return ids, False
    return list(tokenizer(text, truncation=True, max_length=limit)["input_ids"]), True


def refuse_unread(settings: Any, config: Config) -> None:
    """Raise InputError for settings of encoder-decoders where the model is none."""
    if reads_apart(config) or not isinstance(settings, TextToText):
        return
    for name in ("prefix", "beams"):
        if (given := getattr(settings, name)) != TextToText.model_fields[name].default:
            raise InputError(
                f"task.{name} = {given!r} is for models with an encoder and a decoder, and this one, of type {config.get('model_type')!r}, is "
                f"asked through its chat template and answers greedily: leave task.{name} out"
            )


def refuse_long(input_len: int, target_len: int, config: Config, settings: Any) -> None:
    """Raise InputError if the longest input or answer exceeds the model's positions. T5's n_positions is no limit."""
    positions = config.get("max_position_embeddings")
    for setting, length in (("max_input_tokens", input_len), ("max_target_tokens", target_len)):
        if positions is not None and length > positions:
            raise InputError(
                f"task.{setting} = {getattr(settings, setting)}: the longest example has {length} tokens, the model takes "
                f"{positions}: lower task.{setting}"
            )
