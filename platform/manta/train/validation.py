"""Validation while a model trains: its rows, its figures, and what the model makes of the recipe's prompts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from manta.data.shards import load_index
from manta.data.stream import viewed
from manta.objectives import NOT_SCORED
from manta.schema import PretrainRecipe
from manta.storage import Folder
from manta.train import samples
from manta.train.job import Job

SCORED = {"labels", "predecessor_labels", "next_sentence_label"}  # columns that say what is scored


def rows_of(job: Job, rank: int) -> dict[str, np.ndarray]:
    """This rank's rows of the validation split, int32 (rows, ...), as many on each rank: what lacks is not scored."""
    index, resources = load_index(job.feed.shards), job.recipe.resources
    total = min(index.rows("validation"), job.recipe.evaluate.max_rows)
    if total == 0:
        return {}
    share = math.ceil(total / resources.workers)
    mine = np.arange(rank * share, (rank + 1) * share)
    rows = viewed(job.feed, index, "validation", np.minimum(mine, total - 1))
    rows.setdefault("labels", rows["input_ids"].copy())
    for name in SCORED & rows.keys():
        rows[name][mine >= total] = NOT_SCORED
    return rows


def measure(engine: Any, rows: dict[str, np.ndarray], parts: tuple[str, ...]) -> dict[str, float]:
    """Mean loss (nats) over the validation rows of all ranks, of each part where there are several; perplexity, tokens."""
    sums, scored = engine.evaluate(rows)
    both = engine.total([*sums, *scored])
    means = [total / max(1.0, count) for total, count in zip(both[: len(parts)], both[len(parts) :], strict=True)]
    figures = {"loss": sum(means), "perplexity": math.exp(min(means[0], 700.0)), "tokens": int(both[len(parts)])}
    if len(parts) > 1:
        figures |= {f"loss_{part}": mean for part, mean in zip(parts, means, strict=True)}
    return figures


class Show:
    """What the model makes of the recipe's prompts, if there are any."""

    def __init__(self, job: Job, engine: Any):
        assert isinstance(job.recipe, PretrainRecipe)
        self.engine, self.objective, self.settings = engine, job.objective.name, job.recipe.samples
        if self.settings is not None:
            from transformers import AutoTokenizer

            with Folder(job.tokenizer).local() as place:
                self.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
            samples.check_prompts(self.settings, self.objective, self.tokenizer)

    def at(self, step: int) -> list[dict[str, str]]:
        if self.settings is None:
            return []
        return samples.take(self.engine.engine.module, self.tokenizer, self.objective, self.settings, step)
