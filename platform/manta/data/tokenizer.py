"""The tokenizer of a recipe: trained, copied or extended as the section `tokenizer` says, and checked before work starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from manta.data.tokenizers import bpe, extend, unigram, wordpiece
from manta.data.tokenizers.bpe import END_OF_TEXT, END_OF_TURN, PAD, SPECIAL, UNKNOWN
from manta.data.tokenizers.directory import CONFIG, TEMPLATE, Facts, copy, facts, find, write
from manta.data.tokenizers.engines import BYTES, Encode, build, choose, encoders
from manta.data.tokenizers.measure import report
from manta.errors import InputError, Problem
from manta.sections.prepare import Tokenizer
from manta.storage import Folder

__all__ = [
    "BYTES", "END_OF_TEXT", "END_OF_TURN", "PAD", "SPECIAL", "UNKNOWN", "Encode", "Facts", "build", "choose", "copy", "encoders", "facts",
    "find", "make", "problems", "report", "template", "train",
]  # fmt: skip

BUILT_IN = {"bpe": bpe.SPECIAL, "wordpiece": wordpiece.SPECIAL, "unigram": unigram.SPECIAL}
ROLES = {"bpe": bpe.ROLES, "wordpiece": wordpiece.ROLES, "unigram": unigram.ROLES}
# Settings that only one type reads.
OWN = {"lowercase": "wordpiece", "sentinels": "unigram"}
FEWEST = 100  # tokens that must be left to learn, besides those that every tokenizer of the type has


def problems(settings: Tokenizer) -> Iterator[Problem]:
    """Settings that contradict each other."""
    if settings.extend is not None and settings.source is None:
        yield Problem(
            "tokenizer.extend",
            settings.extend,
            "words are added to a tokenizer that exists: name it as tokenizer.source",
        )
    for name, owner in OWN.items():
        if getattr(settings, name) and (settings.type != owner or settings.source is not None):
            yield Problem(
                f"tokenizer.{name}",
                getattr(settings, name),
                f"only the training of type: {owner} reads it: leave it out",
            )
    if settings.source is not None and settings.type != "bpe":
        yield Problem("tokenizer.type", settings.type, "the tokenizer of tokenizer.source keeps its type: leave it out")
    special = _special(settings)
    if twice := sorted({token for token in special if special.count(token) > 1}):
        yield Problem(
            "tokenizer.special_tokens", settings.special_tokens, f"{', '.join(twice)} would stand there twice"
        )
    least = len(special) + (0 if settings.type == "wordpiece" else BYTES) + (0 if settings.type == "bpe" else FEWEST)
    if settings.source is None and settings.vocab_size <= least:
        yield Problem("tokenizer.vocab_size", settings.vocab_size, f"special tokens and letters need {least}: raise it")


def make(settings: Tokenizer, source: Folder | None, texts: Iterator[str], folder: Path) -> None:
    """Fill `folder` with the tokenizer that the settings ask for: trained on the texts, or from `source` (see `find`).

    The texts are drawn only where something is learnt from them. Raises InputError.
    """
    if source is None:
        train(texts, settings.vocab_size, folder, settings)
        return
    copy(source, folder)
    if settings.extend is not None or settings.special_tokens:
        _extend(settings, texts, folder)
    if settings.chat_template is not None:
        _configure(folder, lambda config: config.pop("chat_template", None))  # the older place of the same
        (folder / TEMPLATE).write_text(template(settings.chat_template), encoding="utf-8")


def train(texts: Iterator[str], vocab_size: int, folder: Path, settings: Tokenizer | None = None) -> None:
    """Train a tokenizer and write a Hugging Face directory. The same texts and settings give the same files.

    Without `settings` it is byte-level BPE. The vocabulary has `vocab_size` tokens, or fewer where the texts offer no
    more. Raises InputError if it is too small for the type.
    """
    chosen = settings or Tokenizer()
    special = _special(chosen)
    if chosen.type == "bpe":
        made = bpe.train(texts, vocab_size, special)
    elif chosen.type == "wordpiece":
        made = wordpiece.train(texts, vocab_size, special, chosen.lowercase)
    else:
        made = unigram.train(texts, vocab_size, special, closed=chosen.sentinels > 0)
    chat = bpe.CHAT_TEMPLATE if chosen.type == "bpe" else None
    if chosen.chat_template is not None:
        chat = template(chosen.chat_template)
    roles = ROLES[chosen.type]
    write(folder, made, roles, [token for token in special if token not in roles.values()], chat)


def _special(settings: Tokenizer) -> list[str]:
    """All special tokens, in the order of their ids: those of the type, T5's sentinels, the recipe's own."""
    built_in = () if settings.source is not None else BUILT_IN[settings.type]
    return [*built_in, *(f"<extra_id_{number}>" for number in range(settings.sentinels)), *settings.special_tokens]


def template(setting: str) -> str:
    """The Jinja text itself, or that of the file which is named."""
    if "{" in setting:
        return setting
    path, _, name = setting.rpartition("/")
    folder = Folder(path or ".")
    if not folder.exists(name):
        raise InputError(
            f"tokenizer.chat_template: {setting} is neither a file nor a Jinja template ({{{{ ... }}}}): check the path"
        )
    return folder.read_text(name)


def _extend(settings: Tokenizer, texts: Iterator[str], folder: Path) -> None:
    place = folder / "tokenizer.json"
    before = place.read_text(encoding="utf-8")
    wanted = settings.extend or []
    new = wanted if isinstance(wanted, list) else extend.useful(before, texts, wanted)
    place.write_text(extend.extend(before, new, settings.special_tokens), encoding="utf-8")

    def name(config: dict[str, object]) -> None:
        key = "additional_special_tokens" if "additional_special_tokens" in config else "extra_special_tokens"
        listed = config.get(key) or []
        if isinstance(listed, list):  # some models name theirs in a table: then tokenizer.json alone says it
            config[key] = [*listed, *(token for token in settings.special_tokens if token not in listed)]

    if settings.special_tokens:
        _configure(folder, name)


def _configure(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change tokenizer_config.json, where there is one."""
    place = folder / CONFIG
    if place.exists():
        config = json.loads(place.read_text(encoding="utf-8"))
        change(config)
        place.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
