"""What `compress` may take out of a model: blocks, channels, single weights, and tokens that a domain does not use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from manta.sections.base import Positive, Section

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class Vocabulary(Section):
    """Tokens that the training rows of calibration's shards do not use leave the embeddings and the tokenizer."""

    coverage: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description="share of the rows' tokens that stay, the commonest first; 0.9999 where keep is not set either",
    )
    keep: Share | Positive | None = Field(None, description="tokens that stay at most: a share of all, or a number")

    @property
    def reads_rows(self) -> bool:
        """It counts the tokens of all training rows, however few samples calibration takes."""
        return True

    @model_validator(mode="after")
    def one_measure(self) -> Vocabulary:
        if self.keep is not None and self.coverage is not None:
            raise ValueError(
                f"keep = {self.keep:g} and coverage = {self.coverage:g} both say how much stays: leave one out"
            )
        return self


class Sparsity(Section):
    """A study mode: single weights become zero. The file stays as large, and no engine of Manta's gains speed from it."""

    share: Share
    method: Literal["magnitude", "wanda", "sparsegpt"] = "wanda"
    pattern: Literal["unstructured", "2:4"] = Field(
        "unstructured", description="2:4: two of each four of a row's weights"
    )

    @model_validator(mode="after")
    def half_of_four(self) -> Sparsity:
        if self.pattern == "2:4" and self.share != 0.5:
            raise ValueError(f"pattern 2:4 takes half of the weights: set share=0.5, not {self.share:g}")
        return self


class Prune(Section):
    """Shares of a model's blocks and widths that go; the result is a smaller dense model of the same type."""

    layers: Share | None = None
    depth: Literal["influence", "angle", "loss"] = Field(
        "influence", description="which blocks go: the least changing, the run of them turned least, the least missed"
    )
    intermediate: Share | None = None
    heads: Share | None = Field(None, description="query heads; those that share keys go together")
    hidden: Share | None = None
    multiple: Positive = Field(64, description="widths become multiples of it, which matrix units like")
    refit: bool = Field(True, description="least squares lets the channels that stay stand in for those that go")
    sparsity: Sparsity | None = None

    @property
    def dense(self) -> bool:
        """Whether the model becomes smaller at all."""
        return any(share is not None for share in (self.layers, self.intermediate, self.heads, self.hidden))

    @property
    def reads_rows(self) -> bool:
        """Whether these settings look at calibration rows at all."""
        return self.dense or (self.sparsity is not None and self.sparsity.method != "magnitude")

    @model_validator(mode="after")
    def what_goes(self) -> Prune:
        if not self.dense and self.sparsity is None:
            raise ValueError("nothing is to go: set layers, intermediate, heads, hidden or sparsity")
        return self
