"""The vocabulary of recipes: how a model is tried on changed texts, and attacked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manta.sections.base import Input, Positive, Section

Share = Annotated[float, Field(gt=0.0, le=1.0)]
SynonymFile = Annotated[str, Input(("file",))]
Perturbation = Literal["typos", "lower", "upper", "title", "punctuation", "blanks", "synonyms"]
WITHOUT_DICTIONARY: list[Perturbation] = ["typos", "lower", "upper", "title", "punctuation", "blanks"]


class Attack(Section):
    """Words replaced one after the other until the label changes (after TextFooler, Jin et al., arXiv:1907.11932)."""

    budget: Share = Field(0.2, description="of a text's words may be replaced, one at least")
    candidates: Positive = Field(8, description="words that are tried in the place of one")
    examples: Positive = Field(50, description="validation examples attacked")
    words: Literal["neighbours", "synonyms"] = Field(
        "neighbours", description="of the model's own embedding table, or of robustness.synonyms"
    )


class Robustness(Section):
    """The task's examples again, each changed in ways that leave its meaning alone."""

    perturbations: list[Perturbation] = Field(
        WITHOUT_DICTIONARY, description="each is scored by itself; lower, upper and title change every word"
    )
    rate: Share = Field(0.1, description="of the words that get a slip, a mark, a blank or a synonym; one at least")
    synonyms: SynonymFile | None = Field(
        None,
        description="TSV (word, then its synonyms, between tabs) or JSONL ({word, synonyms}); none: English WordNet",
    )
    attack: Attack | None = Field(None, description="of classification with one label a text")

    @model_validator(mode="after")
    def something_to_try(self) -> Robustness:
        if not self.perturbations and self.attack is None:
            raise ValueError("nothing is tried: name perturbations, such as [typos], or set robustness.attack={}")
        if len(set(self.perturbations)) < len(self.perturbations):
            raise ValueError(f"perturbations = {self.perturbations} name one twice: leave it out")
        if self.synonyms is not None and not self.dictionary_used:
            raise ValueError(
                f"synonyms = {self.synonyms!r} is not asked for anything: name synonyms among perturbations, or set attack.words=synonyms"
            )
        return self

    @property
    def dictionary_used(self) -> bool:
        """Whether anything asks for synonyms."""
        return "synonyms" in self.perturbations or (self.attack is not None and self.attack.words == "synonyms")
