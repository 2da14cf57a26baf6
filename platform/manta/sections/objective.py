"""The vocabulary of `objective`: what a model is trained to predict, each with the settings that it alone reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, model_validator

from manta.sections.base import Fraction, Model, Positive, PositiveFloat, Section

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Length = Annotated[float, Field(ge=1.0)]

MEAN_SPAN = 3.0
TOP_K = 64


class Clm(Section):
    """Each token given those before it."""

    name: Literal["clm"]


class Masking(Section):
    """Which tokens are hidden, and what stands in their place (Devlin et al. 2019, arXiv:1810.04805, 3.1).

    Drawn anew for each sample, from the seed and its place. Whole words: all tokens of a word or none; spans: runs of
    tokens, as SpanBERT hides them (arXiv:1907.10529).
    """

    mask_fraction: Share = Field(0.15, description="of a row's tokens, those that are to be predicted")
    unit: Literal["token", "whole_word", "span"] = Field("token", description="what is hidden as one")
    mean_span: Length | None = Field(
        None, description=f"unit: span: tokens of a span on average; none is {MEAN_SPAN:g}"
    )
    replaced_by_mask: Fraction = Field(0.8, description="of the tokens to predict, those that become the mask token")
    replaced_by_random: Fraction = Field(0.1, description="and those that become any other; the rest stay as they are")

    @model_validator(mode="after")
    def what_fits(self) -> Masking:
        if self.mean_span is not None and self.unit != "span":
            raise ValueError("mean_span is the length of spans: set unit=span, or leave mean_span out")
        if self.replaced_by_mask + self.replaced_by_random > 1.0 + 1e-9:
            raise ValueError(
                f"replaced_by_mask = {self.replaced_by_mask:g} and replaced_by_random = {self.replaced_by_random:g} are "
                "together more than 1: lower one"
            )
        return self

    @property
    def span(self) -> float:
        """Mean tokens of a span."""
        return MEAN_SPAN if self.mean_span is None else self.mean_span


class Mlm(Masking):
    """Hidden tokens, given all others of the row."""

    name: Literal["mlm"]


class Nsp(Masking):
    """BERT's pre-training: hidden tokens, and whether the second half of the row follows the first."""

    name: Literal["nsp"]


class MultiMlm(Masking):
    """Several hidden tokens a row, and for each of them also the token before it."""

    name: Literal["multi_mlm"]
    predecessor_weight: Annotated[float, Field(ge=0.0)] = Field(1.0, description="of the loss of the tokens before")


class Spans(Section):
    """T5's span corruption (arXiv:1910.10683, 3.1.4); the shards' layout says how much is hidden."""

    kind: Literal["spans"]


class Infilling(Section):
    """BART's text infilling (arXiv:1910.13461, 2.2): one mask token for each span, of any length, 0 included."""

    kind: Literal["infilling"]
    mask_fraction: Share = Field(0.3, description="of a row's tokens, those that are hidden")
    mean_span: Length = Field(3.0, description="tokens of a span on average, by a Poisson distribution")
    permute_sentences: bool = Field(False, description="also put each document's sentences in a random order")


class Denoising(Section):
    """Text that was damaged, put right again by an encoder and a decoder."""

    name: Literal["denoising"]
    method: Annotated[Spans | Infilling, Discriminator("kind")] = Spans(kind="spans")


class Hidden(Section):
    """States on the way to the answer, which are to be those of the teacher at the same share of the depth."""

    weight: PositiveFloat = 1.0
    measure: Literal["mse", "cosine"] = Field(
        "cosine", description="mse: mean squared difference (arXiv:1909.10351); cosine: 1 - cosine (arXiv:1910.01108)"
    )


class Taught(Section):
    """A teacher's probabilities of each token beside the token itself (Hinton et al. 2015, arXiv:1503.02531)."""

    teacher: Model = Field(description="the model to learn from, with the same tokenizer")
    temperature: PositiveFloat = Field(1.0, description="flattens both models' probabilities before they are compared")
    hard_weight: Fraction = Field(
        0.1, description="of the loss, the share of the text's own tokens; the rest is the teacher's"
    )
    hidden: Hidden | None = Field(None, description="also compare states on the way, of a teacher that is at hand")


class Distillation(Taught):
    """A teacher's probabilities, computed once before training and stored, or asked for in each step."""

    name: Literal["distillation"]
    teacher_mode: Literal["stored", "live"] = Field(
        "stored", description="stored: its likeliest tokens, once; live: all tokens, by a copy in each worker"
    )
    top_k: Positive | None = Field(
        None, description=f"teacher_mode: stored: how many of the likeliest tokens; none is {TOP_K}"
    )

    @model_validator(mode="after")
    def what_fits(self) -> Distillation:
        if self.teacher_mode == "stored" and self.hidden is not None:
            raise ValueError("states on the way are not stored: set teacher_mode=live, or leave hidden out")
        if self.teacher_mode == "live" and self.top_k is not None:
            raise ValueError("a live teacher tells of all tokens: set teacher_mode=stored, or leave top_k out")
        return self

    @property
    def likeliest(self) -> int:
        """How many of the teacher's tokens are stored, if the vocabulary has as many."""
        return TOP_K if self.top_k is None else self.top_k


class SequenceLabels(Section):
    """What a text is: one of the labels, or any number of them. Follows from task.name=classification or relations."""

    name: Literal["sequence_labels"]
    several: bool = False
    weights: list[PositiveFloat] | None = Field(None, description="of each label; none weighs all alike")


class TokenLabels(Section):
    """What each word of a text is. Follows from task.name=tagging."""

    name: Literal["token_labels"]


class AnswerSpan(Section):
    """Where in a text the answer begins and ends. Follows from task.name=answering."""

    name: Literal["spans"]


class Preference(Section):
    """One answer likelier than another, more so than by the model at the start. Follows from task.name=preference."""

    name: Literal["preference"]
    beta: PositiveFloat = 0.1
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0


class Contrast(Section):
    """Texts that belong together near each other, others far. Follows from task.name=embedding."""

    name: Literal["contrast"]
    group: Annotated[int, Field(ge=2)] = Field(8, description="consecutive rows that are compared with each other")
    temperature: PositiveFloat = 0.05


Pretraining = Annotated[Clm | Mlm | Nsp | Denoising | MultiMlm | Distillation, Discriminator("name")]
Labelling = SequenceLabels | TokenLabels | AnswerSpan
Comparing = Preference | Contrast
Objective = Annotated[
    Clm | Mlm | Nsp | Denoising | MultiMlm | Distillation | Labelling | Comparing, Discriminator("name")
]
