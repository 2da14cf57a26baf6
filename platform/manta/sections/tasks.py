"""The vocabulary of recipes: the tasks of fine-tuning and evaluation, and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manta.sections.base import Positive, Section


class SummarisationTask(Section):
    name: Literal["summarisation"]
    max_input_tokens: Positive = 256
    max_target_tokens: Positive = 48


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


Answering = SummarisationTask | ChatTask
Labelling = ClassificationTask | TaggingTask
Task = Annotated[Answering | Labelling, Field(discriminator="name")]
