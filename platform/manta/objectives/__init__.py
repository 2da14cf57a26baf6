"""Training objectives: a model and a batch in, the sum of token losses and the number of scored tokens out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manta.objectives.clm import clm, clm_scored

# name -> (loss, how many tokens of a batch it scores). Sums, not means: the loop divides by the tokens of the whole
# global batch, so the loss does not depend on how rows are spread over workers and accumulation steps.
OBJECTIVES: dict[str, tuple[Callable[..., Any], Callable[..., int]]] = {"clm": (clm, clm_scored)}
# What each can be trained on: layouts of `data.layout`.
LAYOUTS: dict[str, tuple[str, ...]] = {"clm": ("concat", "best_fit")}
