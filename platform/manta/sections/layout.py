"""The vocabulary of `data.layout`: how the token ids of documents become rows of one length."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from manta.sections.base import Fraction, Section

Isolate = Annotated[
    bool, Field(description="positions and attention restart at each document, so that documents do not see each other")
]


class Concat(Section):
    """Documents one after the other, cut into rows: nothing is padded, documents run over the ends of rows."""

    kind: Literal["concat"]
    isolate: Isolate = True


class BestFit(Section):
    """Each document in the fullest row that still holds it (Ding et al. 2024, arXiv:2404.10830); the rest is padded.

    Only documents longer than a row are cut.
    """

    kind: Literal["best_fit"]
    isolate: Isolate = True


class SentencePairs(Section):
    """[CLS] A [SEP] B [SEP], B what follows A or something else, for next-sentence prediction (arXiv:1810.04805)."""

    kind: Literal["sentence_pairs"]
    random_next: Fraction = Field(0.5, description="of the pairs, those whose B is of another document")
    short_rows: Fraction = Field(0.1, description="of the pairs, those that are made shorter on purpose")


class Denoising(Section):
    """Text in which spans are replaced by sentinels, and the spans: T5's span corruption (arXiv:1910.10683, 3.1.4).

    Stored are whole rows; which spans are hidden is drawn anew for each sample, from the seed and its place.
    """

    kind: Literal["denoising"]
    noise_density: Annotated[float, Field(gt=0.0, lt=1.0, description="of the tokens, those that are hidden")] = 0.15
    mean_span: Annotated[float, Field(ge=1.0, description="tokens that a hidden span has on average")] = 3.0


Layout = Annotated[Concat | BestFit | SentencePairs | Denoising, Discriminator("kind")]
