"""Trains a byte-level BPE tokenizer, or copies one, and encodes quickly with whichever engine gives the same ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.errors import InputError
from manta.storage import Folder

END_OF_TEXT = "<|endoftext|>"  # closes every document and so also stands before every next one: eos and bos
UNKNOWN = "<|unk|>"  # tools ask for one; a byte-level tokenizer never emits it
PAD = "<|pad|>"
END_OF_TURN = "<|end|>"
SPECIAL = (END_OF_TEXT, UNKNOWN, PAD, "<|system|>", "<|user|>", "<|assistant|>", END_OF_TURN)
BYTES = 256

# What counts as a word before merging: the split of GPT-4's tokenizer. Spaces stick to the word that follows, digits
# come in groups of at most three, and runs of spaces stay together.
WORDS = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The split of GPT-2, which `ByteLevel(use_regex=True)` stands for.
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Files of a Hugging Face directory that make up its tokenizer.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
)

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Facts:
    """A tokenizer's size (ids are below it) and special ids, None where it has no such token."""

    vocab_size: int
    eos_id: int
    bos_id: int | None
    pad_id: int | None


# --- making one ------------------------------------------------------------------------------------------------------


def train(texts: Iterator[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer (Sennrich et al., arXiv:1508.07909) and write a Hugging Face directory.

    The vocabulary holds the special tokens, the 256 bytes and the merges, `vocab_size` in all or fewer where the texts
    offer no more pairs that occur twice. The same texts give the same files.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": UNKNOWN,
        "pad_token": PAD,
        "extra_special_tokens": [*SPECIAL[3:]],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def find(path: str) -> Folder:
    """Where an artifact or a Hugging Face directory keeps its tokenizer. Raises InputError if it has no fast one."""
    root = Folder(path)
    for folder in (root / "tokenizer", root / "model", root):
        if folder.exists("tokenizer.json"):
            return folder
    raise InputError(
        f"tokenizer.source: {path} holds no tokenizer.json: choose another, or convert its tokenizer with "
        "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def copy(source: Folder, folder: Path) -> None:
    """Copy a tokenizer's files as they are."""
    for name in FILES:
        if source.exists(name):
            (folder / name).write_text(source.read_text(name), encoding="utf-8")


def facts(folder: Folder) -> Facts:
    """Read a tokenizer's facts from its files. Raises InputError if it names no end-of-text token."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(folder.read_text("tokenizer.json"))
    named: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if folder.exists(name):
            named.update(json.loads(folder.read_text(name)))

    def token_id(role: str) -> int | None:
        token = named.get(role)
        return tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None

    eos_id = token_id("eos_token")
    if eos_id is None:
        raise InputError(f"{folder.url} names no eos_token in tokenizer_config.json: packing needs one, add it there")
    # Ids may have gaps: what embeddings must cover is the highest id, not the number of tokens.
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Facts(size, eos_id, token_id("bos_token"), token_id("pad_token"))


# --- encoding --------------------------------------------------------------------------------------------------------


def encoders(tokenizer_json: str) -> dict[str, Encode]:
    """The engines that can encode with this tokenizer, fastest first; `tokenizers` is always there.

    All treat the text of special tokens inside a document as plain text, so that a document cannot forge a turn of
    chat or an end of text, and add nothing around it.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer_json)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True

    def reference(text: str) -> list[int]:
        return list(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    same = _tiktoken(json.loads(tokenizer_json))
    return {"tokenizers": reference} if same is None else {"tiktoken": same, "tokenizers": reference}


def choose(engines: dict[str, Encode], texts: Sequence[str]) -> str:
    """The fastest engine whose ids equal the reference's on every text."""
    expected = [list(engines["tokenizers"](text)) for text in texts]
    return next(
        name
        for name, encode in engines.items()
        if all(list(encode(t)) == e for t, e in zip(texts, expected, strict=True))
    )


def _tiktoken(described: dict[str, Any]) -> Encode | None:
    """A tiktoken encoder with the same vocabulary, or None where tiktoken cannot represent the tokenizer.

    tiktoken merges the adjacent pair whose union has the lowest id. That is BPE where ids follow the order of merges.
    """
    words = _word_pattern(described.get("pre_tokenizer"))
    model = described["model"]
    plain = model["type"] == "BPE" and not any(
        (described.get("normalizer"), model.get("dropout"), model.get("byte_fallback"),
         model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"))
    )  # fmt: skip
    if words is None or not plain:
        return None
    # Merges are pairs; older files write a pair as one string.
    merged = ["".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    ids = [model["vocab"][token] for token in merged]
    if ids != sorted(ids) or len(set(ids)) != len(ids):
        return None
    letters = _byte_letters()
    special = {token["content"] for token in described["added_tokens"]}
    ranks = {
        bytes(letters[letter] for letter in token): number
        for token, number in model["vocab"].items()
        if token not in special and all(letter in letters for letter in token)
    }
    if not all(bytes([byte]) in ranks for byte in range(BYTES)):
        return None
    import tiktoken

    encoding = tiktoken.Encoding("manta", pat_str=words, mergeable_ranks=ranks, special_tokens={})
    return encoding.encode_ordinary


def _word_pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The regular expression that splits words, of the two common ways to write a byte-level pre-tokenizer."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return GPT2_WORDS
        case [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return str(words)
    return None


def _byte_letters() -> dict[str, int]:
    """The printable letter that stands for each byte in a byte-level vocabulary (Radford et al., GPT-2, 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(BYTES) if byte not in set(printable)]
    return letters | {chr(BYTES + i): byte for i, byte in enumerate(others)}
