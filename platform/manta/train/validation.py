"""Validation while a model trains: its rows, its figures, the task's score, what the model makes of the recipe's prompts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from manta.data.shards import load_index
from manta.data.stream import viewed
from manta.objectives import NOT_SCORED, loss_of
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.storage import Folder
from manta.tasks import LABELLING
from manta.train import samples
from manta.train.job import Job

# Columns that say what is scored.
SCORED = {"labels", "predecessor_labels", "next_sentence_label", "start_positions", "end_positions"}


def rows_of(job: Job, rank: int) -> dict[str, np.ndarray]:
    """This rank's rows of the validation split, int32 (rows, ...), as many on each rank: what lacks is not scored."""
    index, resources = load_index(job.feed.shards), job.recipe.resources
    total = _total(job)
    if total == 0:
        return {}
    share = math.ceil(total / resources.workers)
    mine = np.arange(rank * share, (rank + 1) * share)
    rows = viewed(job.feed, index, "validation", np.minimum(mine, total - 1))
    rows.setdefault("labels", rows["input_ids"].copy())
    for name in SCORED & rows.keys():
        rows[name][mine >= total] = NOT_SCORED
    return rows


def _total(job: Job) -> int:
    """Validation rows of all ranks that are scored."""
    return min(load_index(job.feed.shards).rows("validation"), job.recipe.evaluate.max_rows)


def measure(
    engine: Any, rows: dict[str, np.ndarray], parts: tuple[str, ...], judge: Judge | None = None
) -> dict[str, Any]:
    """Mean loss (nats) over the validation rows of all ranks, of each part where there are several; perplexity, tokens.

    With a judge the task's scores and the number of rows scored, and no perplexity. All ranks call it, and all get the
    same figures.
    """
    logits: list[Any] = []
    sums, scored = engine.evaluate(rows, judge.keeping(logits) if judge else None)
    both = engine.total([*sums, *scored])
    means = [
        total / count if count else 0.0 for total, count in zip(both[: len(parts)], both[len(parts) :], strict=True)
    ]
    if judge is not None:
        return {"loss": sum(means), **judge.figures(logits, rows)}
    figures = {"loss": sum(means), "perplexity": math.exp(min(means[0], 700.0)), "tokens": int(both[len(parts)])}
    if len(parts) > 1:
        figures |= {f"loss_{part}": mean for part, mean in zip(parts, means, strict=True)}
    return figures


class Judge:
    """Scores what a head says of the validation rows, by the measure of its task."""

    def __init__(self, job: Job, rank: int):
        assert isinstance(job.recipe, FinetuneRecipe)
        assert job.labels is not None
        self.settings, self.labels = job.recipe.task, job.labels
        self.task, self.loss = LABELLING[self.settings.name], loss_of(job.objective)
        self.rows = _total(job)
        share = math.ceil(self.rows / job.recipe.resources.workers)
        self.mine = max(0, min(share, self.rows - rank * share))  # those behind them only fill up the rank's share

    def keeping(self, logits: list[Any]) -> Callable[..., Any]:
        """The objective, which also adds its logits to the list."""
        return functools.partial(self.loss, keep=logits)

    def figures(self, logits: list[Any], rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The scores over the rows of all ranks, in their order; raises RuntimeError unless each is scored once."""
        import torch

        found = torch.cat(logits).numpy()  # (rows, ...)
        columns = {name: values[: self.mine] for name, values in rows.items()}
        mine = (
            self.task.decode(found[: self.mine], columns, self.labels, self.settings),
            self.task.references(columns, self.labels, self.settings),
        )
        everybody: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everybody, mine)
        predictions, wanted = ([each for part in everybody for each in part[side]] for side in (0, 1))
        if len(predictions) != self.rows:
            raise RuntimeError(f"{len(predictions)} of {self.rows} validation rows were scored")
        return {"rows": len(predictions), **self.task.score(predictions, wanted)}


def judge_of(job: Job, rank: int) -> Judge | None:
    """The judge of a job whose task labels; None for others."""
    return Judge(job, rank) if job.labels is not None else None


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
