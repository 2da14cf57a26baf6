"""Conversations as tokens: what the tokenizer's chat template makes of them, and which of those tokens are learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from manta.errors import InputError

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
Example = Mapping[str, Any]  # {"input": text, "target": text} or {"messages": [Message, ...]}

IGNORED = -100  # the label of a token that is not scored (the convention of torch's cross_entropy)


class Encoded(NamedTuple):
    """One example as token ids and labels of equal length, and whether something had to be cut off."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def columns(self) -> dict[str, list[int]]:
        """What is stored of it."""
        return {"input_ids": self.input_ids, "labels": self.labels}


def render(messages: Sequence[Message], tokenizer: Any, *, answering: bool) -> str:
    """The conversation as the model sees it; with `answering`, up to where the assistant begins to speak."""
    if not tokenizer.chat_template:
        raise InputError(
            f"model.source: the tokenizer of {tokenizer.name_or_path} has no chat template, so a question cannot be put to it: "
            "add chat_template.jinja to the model's folder"
        )
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answering))


def encode(messages: Sequence[Message], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation: each assistant's words and its end token are scored, nothing else is.

    Prompt and answer are tokenised apart, because that is how they come about when the model answers; what the template
    puts behind the last answer's end token is left out. Labels are not shifted. Raises InputError for a template that
    rewrites earlier turns (its training text would differ from what is served) or that ends no answer.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    seen = ""
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:position], tokenizer, answering=True)
        whole = render(messages[: position + 1], tokenizer, answering=False)
        if not prompt.startswith(seen) or not whole.startswith(prompt):
            raise InputError(
                f"model.source: the chat template of {tokenizer.name_or_path} rewrites earlier turns when a conversation goes on, "
                "so its tokens cannot be told apart by who spoke: use examples of one question and one answer, or another template"
            )
        question = _token_ids(prompt[len(seen) :], tokenizer)
        answer, behind = _split_at_end(_token_ids(whole[len(prompt) :], tokenizer), tokenizer)
        last = position == len(messages) - 1
        input_ids += question + answer + ([] if last else behind)
        labels += [IGNORED] * len(question) + answer + ([] if last else [IGNORED] * len(behind))
        seen = whole
    return input_ids, labels


def end_token(tokenizer: Any) -> int:
    """The id of the token that ends an answer in this chat template. Raises InputError if there is none."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    input_ids, _ = encode(messages, tokenizer)
    return input_ids[-1]


def stop_at_end(folder: Path) -> None:
    """Let generation stop where this model's chat template ends an answer: generation_config.json gets that token.

    `folder` is a local Hugging Face directory. The token that ends a document stops it as well.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known = settings.get("eos_token_id", tokenizer.eos_token_id)
    stops = [stop for stop in (known if isinstance(known, list) else [known]) if stop is not None]
    if (end := end_token(tokenizer)) not in stops:
        stops.append(end)
    settings["eos_token_id"] = stops if len(stops) > 1 else stops[0]
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def cut(text: str, tokenizer: Any, max_tokens: int) -> tuple[str, bool]:
    """The first `max_tokens` tokens of a text, as text, and whether anything was lost."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if len(encoded["input_ids"]) <= max_tokens:
        return text, False
    return text[: encoded["offset_mapping"][max_tokens - 1][1]], True


def _token_ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _split_at_end(token_ids: list[int], tokenizer: Any) -> tuple[list[int], list[int]]:
    """An answer's ids up to and with its end token, and what the template puts behind it.

    The last special token counts, so that an answer that itself contains one is not cut short.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ends = [position for position, token_id in enumerate(token_ids) if token_id in special]
    if not ends:
        raise InputError(
            f"model.source: the chat template of {tokenizer.name_or_path} ends an answer with no special token, so a tuned model "
            "would never stop: end the assistant's turn in the template with the end-of-text token"
        )
    return token_ids[: ends[-1] + 1], token_ids[ends[-1] + 1 :]
