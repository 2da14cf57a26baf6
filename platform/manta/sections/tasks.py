"""The vocabulary of recipes: the tasks of fine-tuning and evaluation, and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manta.sections.base import NonNegative, Positive, PositiveFloat, Section


class TextToText(Section):
    """What tasks share that make one text of another."""

    max_input_tokens: Positive = Field(
        256, description="of the input; of all that the encoder reads, where there is one"
    )
    max_target_tokens: Positive = 48
    prefix: str | None = Field(
        None, description="of an encoder-decoder: stands before the input; none: T5's own words for type t5"
    )
    beams: Positive = Field(1, description="of an encoder-decoder: 1 takes the likeliest token each time")
    score_rows: NonNegative = Field(
        32, description="of an encoder-decoder: rows that are answered and scored at each validation"
    )


class SummarisationTask(TextToText):
    """A text and its gist."""

    name: Literal["summarisation"]


class TranslationTask(TextToText):
    """A text in one language, and the same in another. The languages are named as the model is to read them: German."""

    name: Literal["translation"]
    source_language: Annotated[str, Field(min_length=1)]
    target_language: Annotated[str, Field(min_length=1)]
    max_target_tokens: Positive = 256


class ChatTask(Section):
    name: Literal["chat"]
    max_tokens: Positive = 512


class ClassificationTask(Section):
    """A text, or a pair of texts, and what it is: one label, or any number of them."""

    name: Literal["classification"]
    max_tokens: Positive = Field(256, description="of a text, or of a pair together; what is longer is cut")
    several: bool = Field(False, description="any number of labels may hold at once, none of them too")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare labels count as much as frequent ones"
    )

    @model_validator(mode="after")
    def weights_of_one_label(self) -> ClassificationTask:
        if self.several and self.class_weights != "none":
            raise ValueError(
                f"class_weights = {self.class_weights!r} weighs examples by their one label, and with several=true they have "
                "any number: set class_weights=none"
            )
        return self


class TaggingTask(Section):
    """Words, each with its tag: names of persons and places, parts of speech."""

    name: Literal["tagging"]
    max_tokens: Positive = Field(256, description="of a sentence; words that are cut off are taken for O")


class RelationsTask(Section):
    """A text, two entities in it, and what the one is to the other."""

    name: Literal["relations"]
    max_tokens: Positive = Field(
        256, description="of a text with its markers; what is longer is cut around the entities"
    )
    no_relation: str | None = Field(
        None, description="the label that says that no relation holds, which the score leaves out"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare labels count as much as frequent ones"
    )


class AnsweringTask(Section):
    """A question, a context, and the part of it that answers."""

    name: Literal["answering"]
    max_tokens: Positive = Field(384, description="of a question and a window of its context")
    stride: NonNegative = Field(128, description="tokens of a long context that each window shares with the one before")
    max_answer_tokens: Positive = Field(30, description="of the longest answer that is given")
    null_threshold: float | None = Field(
        None,
        description="no answer is given where that scores higher than the best one by more than this; null: every question has one",
    )

    @model_validator(mode="after")
    def windows_move_on(self) -> AnsweringTask:
        if self.stride >= self.max_tokens:
            raise ValueError(
                f"stride = {self.stride} is no less than max_tokens = {self.max_tokens}, so windows would not move on: lower stride"
            )
        return self


class PreferenceTask(Section):
    """A question and two answers, the better one first (DPO, arXiv:2305.18290)."""

    name: Literal["preference"]
    max_tokens: Positive = Field(512, description="of a question with an answer; what is longer is cut at its end")
    beta: PositiveFloat = Field(0.1, description="how dear it is to move away from the model that training starts from")
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        0.0, description="share of the pairs that are thought to be the wrong way round"
    )


class EmbeddingTask(Section):
    """Texts that belong together, perhaps with one that does not (InfoNCE, arXiv:1807.03748)."""

    name: Literal["embedding"]
    max_tokens: Positive = Field(128, description="of a text; what is longer is cut")
    group: Annotated[int, Field(ge=2)] = Field(
        8, description="examples that are each other's negatives; divides resources.micro_batch"
    )
    temperature: PositiveFloat = Field(0.05, description="of the softmax over cosines; lower looks at the nearest ones")


Answering = SummarisationTask | TranslationTask | ChatTask
Labelling = ClassificationTask | TaggingTask | RelationsTask | AnsweringTask
Comparing = PreferenceTask | EmbeddingTask
Task = Annotated[Answering | Labelling | Comparing, Field(discriminator="name")]
