"""The vocabulary of `prepare` recipes: sources, cleaning steps in the order they are listed, packing, tokenizers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from manta.sections.augment import Augmentation
from manta.sections.base import Examples, Fraction, NonNegative, Positive, PositiveFloat, Section, TokenizerSource
from manta.sections.layout import Concat, Layout

Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$", description="ISO 639-1, such as en or zh")]


class Source(Section):
    """Files of one format. `python://stdlib/...` and `python://site-packages/...` name the running interpreter's own."""

    path: str = Field(description="glob on any filesystem, e.g. corpus/**/*.jsonl or python://stdlib/**/*.py")
    format: Literal["text", "jsonl", "parquet", "csv", "html", "warc", "datasets", "docstrings", "package_metadata"] = (
        Field(description="datasets: a folder that Hugging Face's save_to_disk wrote")
    )
    text_column: str = Field("text", description="column that holds the text (jsonl, parquet, csv, datasets)")
    language: Language | None = Field(None, description="of all its documents; none: found out where a step needs it")
    weight: PositiveFloat | None = Field(
        None, description="share of the training tokens, against the other weights; all sources have one, or none"
    )
    exclude: list[str] = Field([], description="globs of paths to leave out")


# --- steps on one document -------------------------------------------------------------------------------------------


class Normalise(Section):
    """Unicode form, line ends, trailing spaces; on request repair of mojibake and removal of control characters."""

    step: Literal["normalise"]
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    repair: bool = Field(False, description="undo wrong decodings (mojibake) with ftfy")
    control: bool = Field(True, description="remove control and zero-width characters that carry no text")


class Markup(Section):
    """Remove what is not prose: HTML tags and entities, and lines that pages repeat around their text."""

    step: Literal["markup"]
    tags: bool = Field(True, description="remove HTML tags, comments, scripts and styles; resolve entities")
    boilerplate: bool = Field(True, description="remove lines such as cookie notices, share buttons, navigation")


class LanguageId(Section):
    """Keep documents of these languages, as CLD2 tells them."""

    step: Literal["language"]
    keep: list[Language] = Field(min_length=1)
    min_share: Fraction = Field(0.65, description="of the text's bytes that must be in the language")
    unknown: Literal["keep", "drop"] = Field("drop", description="documents whose language cannot be told")


class Length(Section):
    """Bounds on the length, in characters and in words (of a script without spaces: as a segmenter finds them)."""

    step: Literal["length"]
    min_chars: NonNegative = 100
    max_chars: Positive = 200_000
    min_words: NonNegative = 0
    max_words: Positive | None = None


class Letters(Section):
    """Enough letters, of any script, among the characters that are not space."""

    step: Literal["letters"]
    min_fraction: Fraction = 0.5


class RepeatedLines(Section):
    """Not too many lines that repeat an earlier line of the same document."""

    step: Literal["repeated_lines"]
    max_fraction: Fraction = 0.5


class GopherQuality(Section):
    """The quality rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1)."""

    step: Literal["gopher_quality"]
    min_words: NonNegative = 50
    max_words: Positive = 100_000
    min_mean_word_length: NonNegative = Field(
        3, description="characters; at most 1 for scripts without spaces, whatever is set"
    )
    max_mean_word_length: Positive = 10
    max_symbol_ratio: PositiveFloat = Field(0.1, description="# or ... for each word or punctuation mark")
    max_bullet_lines: Fraction = 0.9
    max_ellipsis_lines: Fraction = 0.3
    min_alphabetic_words: Fraction = Field(
        0.8, description="of words and punctuation marks (of scripts without spaces: words) those with a letter"
    )
    min_stop_words: NonNegative = Field(
        2, description="different stop words of the document's language; languages without a list pass"
    )


class GopherRepetition(Section):
    """The repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1)."""

    step: Literal["gopher_repetition"]
    max_duplicate_lines: Fraction = 0.3
    max_duplicate_paragraphs: Fraction = 0.3
    max_duplicate_line_chars: Fraction = 0.2
    max_duplicate_paragraph_chars: Fraction = 0.2
    max_top_ngram_chars: list[Fraction] = Field(
        [0.2, 0.18, 0.16], description="characters in the commonest n-gram, for n = 2, 3, ..."
    )
    max_duplicate_ngram_chars: list[Fraction] = Field(
        [0.15, 0.14, 0.13, 0.12, 0.11, 0.1], description="characters in n-grams that occur twice, for n = 5, 6, ..."
    )


class C4Quality(Section):
    """The rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2): lines are removed, then documents judged."""

    step: Literal["c4_quality"]
    end_punctuation: bool = Field(True, description="remove lines that end without a terminal punctuation mark")
    min_words_per_line: NonNegative = 3
    min_sentences: NonNegative = 5
    drop_lorem_ipsum: bool = True
    drop_curly_bracket: bool = True
    remove_javascript: bool = Field(True, description="remove lines that mention JavaScript")
    remove_policy: bool = Field(True, description="remove lines about cookies, terms of use, privacy")


class FineWebQuality(Section):
    """The custom rules of FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

    step: Literal["fineweb_quality"]
    min_punctuated_lines: Fraction = Field(0.12, description="lines that end with a punctuation mark")
    max_short_lines: Fraction = Field(0.67, description="lines of at most `short_line` characters")
    short_line: NonNegative = Field(30, description="characters; of scripts without spaces each counts as two")
    max_duplicate_line_chars: Fraction = 0.01
    max_newlines_per_word: PositiveFloat = Field(0.3, description="or punctuation mark")


class Pii(Section):
    """Personal data: replaced by a name for its kind, or the document dropped."""

    step: Literal["pii"]
    kinds: list[Literal["email", "ip", "phone", "card", "iban", "cn_id"]] = Field(["email", "ip"], min_length=1)
    action: Literal["replace", "drop"] = "replace"


# --- steps on the whole corpus ---------------------------------------------------------------------------------------


class ExactDedup(Section):
    """Keep the first of documents with the same text (white space aside)."""

    step: Literal["exact_dedup"]


class NearDedup(Section):
    """Keep one of each cluster of near-duplicates: MinHash and LSH (Broder 1997; Leskovec et al., chapter 3).

    Two documents of Jaccard similarity J over their n-grams meet with probability 1 - (1 - J^rows)^bands.
    """

    step: Literal["near_dedup"]
    ngram: Positive = Field(5, description="words in a shingle (of scripts without spaces: characters)")
    bands: Positive = 16
    rows: Positive = 8


class LineDedup(Section):
    """Remove lines (or paragraphs) that stand in more than `max_documents` documents: from all of them, the first too."""

    step: Literal["line_dedup"]
    unit: Literal["line", "paragraph"] = "line"
    max_documents: Positive = 3
    min_chars: NonNegative = Field(20, description="shorter ones are left alone")


class Decontaminate(Section):
    """Drop documents that share an n-gram with the texts of `data.heldout`."""

    step: Literal["decontaminate"]
    ngram: Positive = Field(
        13,
        description="words, as in GPT-3 (Brown et al. 2020, appendix C); of scripts without spaces 4 x as many characters",
    )


Step = Annotated[
    Normalise | Markup | LanguageId | Length | Letters | RepeatedLines | GopherQuality | GopherRepetition | C4Quality
    | FineWebQuality | Pii | ExactDedup | NearDedup | LineDedup | Decontaminate,
    Discriminator("step"),
]  # fmt: skip
DEFAULT_STEPS: list[Step] = [
    Normalise(step="normalise"),
    Length(step="length"),
    Letters(step="letters"),
    RepeatedLines(step="repeated_lines"),
    ExactDedup(step="exact_dedup"),
]


class PrepareData(Section):
    sources: list[Source] = Field(min_length=1)
    steps: list[Step] = Field(DEFAULT_STEPS, description="cleaning, in this order; a document is dropped by the first")
    augment: list[Augmentation] = Field([], description="variants to add to the training documents")
    heldout: Examples | None = Field(None, description="texts of evaluation sets, for the step decontaminate")
    keep_dropped: Literal["none", "start", "full"] = Field("start", description="of a dropped text, in dropped/")
    max_quarantined: Fraction = Field(0.05, description="of all records; above it the run stops")
    max_repeats: PositiveFloat = Field(
        1.0, description="with weights: how often an epoch may show the rows of the source that runs out first"
    )
    validation_fraction: Fraction = Field(0.02, description="of documents, chosen by the hash of their text")
    seq_len: Positive = Field(512, description="tokens per row")
    layout: Layout = Field(Concat(kind="concat"), description="how documents become rows")
    shard_tokens: Positive = Field(1_048_576, description="tokens a shard aims for")
    examples: Literal["none", "docstring_summary"] = Field(
        "none", description="supervised pairs to extract: docstring_summary = a docstring's body -> its first line"
    )


# In brackets, which every type splits off: a document that spells the token out does not make it.
SpecialToken = Annotated[str, Field(pattern=r"^(<\S+>|\[\S+\])$", description="such as <|tool|> or [CITE]")]


class Tokenizer(Section):
    """Train a tokenizer, or take the one of `source`, as it is or with words added."""

    type: Literal["bpe", "wordpiece", "unigram"] = Field(
        "bpe", description="bpe: byte-level, as GPT's; wordpiece: as BERT's; unigram: as T5's, with byte fallback"
    )
    source: TokenizerSource | None = Field(None, description="artifact or Hugging Face directory; no training then")
    extend: Positive | list[str] | None = Field(
        None, description="with source: words to append, or how many to find in the corpus; no id changes"
    )
    vocab_size: Annotated[int, Field(ge=264)] = Field(16_384, description="with letters (or bytes) and special tokens")
    train_chars: Positive = Field(20_000_000, description="characters of the corpus (chosen by hash) to train on")
    special_tokens: list[SpecialToken] = Field([], description="besides those of the type")
    chat_template: str | None = Field(
        None, description="Jinja text or the path of its file; none: of bpe Manta's own, of a source the source's"
    )
    lowercase: bool = Field(False, description="wordpiece: all in lower case, without accents")
    sentinels: NonNegative = Field(
        0, description="unigram: tokens <extra_id_0> ...; T5 has 100, and closes texts by </s>"
    )


class PrepareResources(Section):
    cpus: Positive = Field(2, description="CPUs that a local Ray offers; a cluster brings its own")
    address: str | None = Field(None, description="Ray address; none starts Ray on this machine")
