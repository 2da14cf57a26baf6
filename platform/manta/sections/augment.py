"""The vocabulary of augmentation: variants of documents that `prepare` adds to the training side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from manta.sections.base import Fraction, Input, NonNegative, Positive, PositiveFloat, Section

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$", description="ISO 639-1, such as en or zh")]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
SynonymFile = Annotated[str, Input(("file",))]
WriterModel = Annotated[str, Input(("pretrain", "finetune", "tune", "compress", "directory"))]


class Augmented(Section):
    """What every kind has."""

    share: Share = Field(0.1, description="of the documents, chosen by hash, that get variants")
    copies: Positive = Field(
        1, description="variants of each; those equal to the document or to each other are left out"
    )
    languages: list[Language] = Field([], description="only documents of these; none: of every language")


# --- from the text alone ---------------------------------------------------------------------------------------------


class Characters(Augmented):
    """Slips of the keyboard (Pruthi et al. 2019, arXiv:1905.11268): the first and the last letter of a word stay."""

    augment: Literal["characters"]
    rate: Share = Field(
        0.05, description="of the words of four letters or more; of scripts without spaces: of the characters"
    )
    edits: list[Literal["neighbour", "swap", "delete", "insert", "width"]] = Field(
        ["neighbour", "swap", "delete", "insert", "width"],
        min_length=1,
        description="neighbour: the key beside (QWERTY, ЙЦУКЕН), of Chinese the character beside in the order of pinyin, "
        "most often a homophone; insert: such a key as well, or the character twice; width: of marks, numbers and Latin words among such characters",
    )


class Synonyms(Augmented):
    """Words replaced by synonyms (Wei & Zou 2019, arXiv:1901.11196). Only exact matches: capitals and inflections stay."""

    augment: Literal["synonyms"]
    rate: Share = Field(0.1, description="of the words; fewer where fewer have a synonym")
    path: SynonymFile | None = Field(
        None,
        description="TSV (word, then its synonyms, between tabs) or JSONL ({word, synonyms}); none: for English documents "
        "WordNet, where Debian's wordnet-base or $WNHOME has it; other languages need a file",
    )


class Words(Augmented):
    """Words swapped and deleted at random (Wei & Zou 2019, arXiv:1901.11196), swapped only within a sentence."""

    augment: Literal["words"]
    swap: Fraction = Field(0.1, description="swaps for each word")
    delete: Fraction = Field(0.1, description="of the words")


class Concatenate(Augmented):
    """A chosen document followed by the next chosen ones of its language, in the order of the sources."""

    augment: Literal["concatenate"]
    documents: Annotated[int, Field(ge=2)] = Field(2, description="in each variant")
    separator: str = "\n\n"


# --- written by a model ----------------------------------------------------------------------------------------------


class Endpoint(Section):
    """A server that speaks OpenAI's chat completions."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$")] = Field(description="base, such as http://host:8000/v1")
    model: str = Field(description="as the server names it")
    api_key_env: str | None = Field(None, description="environment variable that holds the key, on every node")
    concurrency: Positive = Field(8, description="requests at once, of each task")
    timeout_s: PositiveFloat = Field(120.0, description="for one answer")
    retries: NonNegative = Field(6, description="after 429, 5xx and broken connections; waits grow, Retry-After counts")


class Writer(Section):
    """Who writes, and what is asked for: a model in the task's own process, or an endpoint."""

    model: WriterModel | None = Field(
        None, description="artifact or Hugging Face directory, decoder or encoder-decoder; runs in fp32 on the CPU"
    )
    endpoint: Endpoint | None = None
    prompt: str = Field("{text}", description="with {text} in it; the text alone is for models made for the one thing")
    temperature: NonNegativeFloat = Field(0.0, description="0: greedy; above, drawn by the document's own seed")
    max_new_tokens: Positive = Field(1024, description="answers cut off there are left out")
    piece_chars: Positive = Field(
        2000, description="longer documents are written in pieces, cut between paragraphs or sentences"
    )


class Rewrite(Augmented, Writer):
    """The document in other words, as the prompt asks (as in Maini et al. 2024, arXiv:2401.16380)."""

    augment: Literal["rewrite"]


class BackTranslate(Augmented):
    """To another language and back (Sennrich et al. 2016, arXiv:1511.06709)."""

    augment: Literal["back_translate"]
    there: Writer
    back: Writer


Augmentation = Annotated[
    Characters | Synonyms | Words | Concatenate | Rewrite | BackTranslate, Discriminator("augment")
]
