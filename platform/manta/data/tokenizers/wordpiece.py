"""WordPiece as BERT has it: words cut into the longest known pieces, `##` before those that continue a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # in BERT's order
ROLES = {
    "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]",
    "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip
PREFIX = "##"
# Of the vocabulary, the share that single characters may take; each may stand at a word's start and within it.
ALPHABET_SHARE = 2 / 3


def train(texts: Iterator[str], vocab_size: int, special_tokens: Sequence[str], lowercase: bool) -> str:
    """Train WordPiece (Schuster and Nakajima 2012; Devlin et al., arXiv:1810.04805). Returns the text of tokenizer.json.

    Pieces are found by merging pairs, as in BPE. Characters too rare for the vocabulary are left to [UNK]. All texts
    are held in memory. The same texts give the same vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    normaliser = normalizers.BertNormalizer(lowercase=lowercase)
    cut = pre_tokenizers.BertPreTokenizer()
    normal = [normaliser.normalize_str(text) for text in texts]
    letters, rare = _alphabet(normal, cut, int((vocab_size - len(special_tokens)) * ALPHABET_SHARE))
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = cut
    # The trainer numbers letters as it meets them, in an order that changes from run to run: here they are numbered
    # before it starts. To it they are special tokens; the tokenizer below is made anew from the vocabulary alone.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[*special_tokens, *letters], show_progress=False
    )
    learner.train_from_iterator((text.translate(rare) for text in normal), trainer)

    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(with_added_tokens=False), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normaliser, cut
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX, cleanup=False)
    tokenizer.add_special_tokens(list(special_tokens))
    named = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=named
    )
    return str(tokenizer.to_str(pretty=True))


def _alphabet(texts: Sequence[str], cut: Any, most: int) -> tuple[list[str], dict[int, str]]:
    """The letters to start from, commonest first until `most` entries are made; the others, as a table to blank them."""
    counts: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    for text in texts:
        counts.update(text)
        pairs.update(pairwise(text))
    # Whether a letter continues a word is decided by the letter before it.
    within = {
        second for first, second in pairs if len(cut.pre_tokenize_str(first + second)) == 1 and not first.isspace()
    }
    chosen: list[str] = []
    ranked = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    for number, letter in enumerate(ranked):
        forms = [letter, PREFIX + letter] if letter in within else [letter]
        if len(chosen) + len(forms) > most:
            return sorted(chosen), {ord(other): " " for other in ranked[number:]}
        chosen += forms
    return sorted(chosen), {}
