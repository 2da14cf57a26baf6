"""Unigram as SentencePiece has it: spaces belong to the word that follows, unknown characters fall back to bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence

from manta.errors import InputError

SPECIAL = ("<pad>", "</s>", "<unk>")  # in T5's order
ROLES = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SPACE = "\u2581"  # the letter that stands for a space
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# A special token or a byte's name that a document spells out must not become one: brackets are split off, so that no
# piece with more than a bracket can match them.
BRACKETS = r"[<>\[\]]"
# What no piece holds: line ends and tabs, which SentencePiece uses itself, and brackets.
BETWEEN = re.compile(r"[\r\n\t\0<>\[\]]+")
LONGEST_LINE = 1 << 30  # bytes; SentencePiece leaves out longer ones


def train(texts: Iterator[str], vocab_size: int, special_tokens: Sequence[str], closed: bool) -> str:
    """Train a unigram language model of pieces (Kudo, arXiv:1804.10959). Returns the text of tokenizer.json.

    `closed`: </s> is added after each text where special tokens are asked for, as T5 does. SentencePiece trains, on one
    thread: the same texts give the same vocabulary. (The trainer of `tokenizers` does not: it sums in the order of a
    random hash.) Raises InputError if the vocabulary is too small for the letters, or there is no text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = _pieces(texts, vocab_size - len(special_tokens) - len(BYTES))
    taken = {*special_tokens, *BYTES}
    scored = [*((token, 0.0) for token in (*special_tokens, *BYTES)), *(p for p in pieces if p[0] not in taken)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=list(special_tokens).index("<unk>"), byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BRACKETS), behavior="isolated"),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(list(special_tokens))
    if closed:
        end = [("</s>", tokenizer.token_to_id("</s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=end
        )
    return str(tokenizer.to_str(pretty=True))


def _pieces(texts: Iterator[str], count: int) -> list[tuple[str, float]]:
    """At most `count` pieces with their log probabilities, likeliest first."""
    import sentencepiece

    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in BETWEEN.split(text) if line.strip()),
            model_writer=written,
            model_type="unigram",
            vocab_size=count + 1,  # with <unk>, which it does not leave out
            hard_vocab_limit=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            normalization_rule_name="identity",
            max_sentence_length=LONGEST_LINE,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"tokenizer.vocab_size: no unigram vocabulary of {count} pieces (besides special tokens and 256 bytes) can be made of the "
            f"training texts: raise it, or give more text; SentencePiece says: {reason}"
        ) from error
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [(model.id_to_piece(number), model.get_score(number)) for number in range(1, model.get_piece_size())]
