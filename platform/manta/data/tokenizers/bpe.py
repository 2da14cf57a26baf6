"""Byte-level BPE: every text is made of its 256 bytes and of merges, so that none is unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

END_OF_TEXT = "<|endoftext|>"  # closes every document and so also stands before every next one: eos and bos
UNKNOWN = "<|unk|>"  # tools ask for one; a byte-level tokenizer never emits it
PAD = "<|pad|>"
END_OF_TURN = "<|end|>"
SPECIAL = (END_OF_TEXT, UNKNOWN, PAD, "<|system|>", "<|user|>", "<|assistant|>", END_OF_TURN)

# What counts as a word before merging: the split of GPT-4's tokenizer in Llama 3's words, which other engines know by
# sight. Spaces stick to the word that follows, digits come in groups of at most three, runs of spaces stay together.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ROLES = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": UNKNOWN, "pad_token": PAD}


def train(texts: Iterator[str], vocab_size: int, special_tokens: Sequence[str]) -> str:
    """Train byte-level BPE (Sennrich et al., arXiv:1508.07909). Returns the text of tokenizer.json.

    The vocabulary holds the special tokens, the 256 bytes and the merges, `vocab_size` in all or fewer where the texts
    offer no more pairs that occur twice. The same texts give the same vocabulary.
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
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str(pretty=True))
