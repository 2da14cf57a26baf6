"""Validation while a model trains: its rows, its figures, the task's score, what the model makes of the recipe's prompts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from manta.data import grouping
from manta.data.shards import load_index
from manta.data.stream import lengths, take, viewed
from manta.objectives import NOT_SCORED, TABLE, held_out, loss_of
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.storage import Folder
from manta.tasks import COMPARING, LABELLING, WINDOWED
from manta.train import asking, comparing, mixed, samples
from manta.train.job import Job

# Columns that say what is scored.
SCORED = {"labels", "predecessor_labels", "next_sentence_label", "start_positions", "end_positions"}


def rows_of(job: Job, rank: int) -> dict[str, np.ndarray]:
    """This rank's rows of the validation split, int32 (rows, ...), as many on each rank: what lacks is not scored."""
    index = load_index(job.feed.shards)
    total = _total(job)
    if total == 0:
        return {}
    share = comparing.each_rank(total, job)
    mine = np.arange(rank * share, (rank + 1) * share)
    rows = viewed(job.feed, index, "validation", np.minimum(mine, total - 1))
    if (trim := job.feed.trim) is not None:  # to the longest of all ranks' rows
        width = int(grouping.width_of(lengths(job.feed.shards, "validation")[:total].max(), trim.widths))
        rows |= {name: np.ascontiguousarray(rows[name][:, :width]) for name in trim.columns}
    rows.setdefault("labels", rows["input_ids"].copy())
    for name in SCORED & rows.keys():
        rows[name][mine >= total] = NOT_SCORED
    return rows


def _total(job: Job) -> int:
    """Validation rows of all ranks that are scored."""
    index = load_index(job.feed.shards)
    there = index.rows("validation")
    total = min(there, job.recipe.evaluate.max_rows)
    if total and isinstance(job.recipe, FinetuneRecipe) and job.recipe.task.name in WINDOWED:
        # To the end of the example that the last row belongs to: one is scored whole or not at all.
        following = (
            take(job.feed.shards, index, "validation", np.arange(total, there), ("window",)) if total < there else {}
        )
        begins = np.flatnonzero(following["window"] == 0) if following else []
        total = total + int(begins[0]) if len(begins) else there
    return total


def measure(
    engine: Any,
    rows: dict[str, np.ndarray],
    parts: tuple[str, ...],
    judge: Judges | None = None,
    loss: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Mean loss (nats) over the validation rows of all ranks, of each part where there are several; perplexity, tokens.

    With a judge the task's scores and the number of rows scored, and no perplexity but where the model answers with
    text. `loss` stands in for the engine's objective. All ranks call it, and all get the same figures.
    """
    logits: list[Any] = []
    asker, looks_on = (judge, None) if isinstance(judge, asking.Asker) else (None, judge)
    sums, scored = engine.evaluate(rows, looks_on.keeping(logits) if looks_on else loss)
    both = engine.total([*sums, *scored])
    means = [
        total / count if count else 0.0 for total, count in zip(both[: len(parts)], both[len(parts) :], strict=True)
    ]
    if looks_on is not None:
        return {"loss": sum(means), **looks_on.figures(logits, rows)}
    figures = {"loss": sum(means), "perplexity": math.exp(min(means[0], 700.0)), "tokens": int(both[len(parts)])}
    if len(parts) > 1:
        figures |= {f"loss_{part}": mean for part, mean in zip(parts, means, strict=True)}
    return figures | (asker.figures(engine.engine.module) if asker else {})


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
        self.kept = self.task.kept(Folder(job.feed.shards)) if self.settings.name in WINDOWED else None

    def keeping(self, logits: list[Any]) -> Callable[..., Any]:
        """The objective, which also adds its logits to the list."""
        return functools.partial(self.loss, keep=logits)

    def figures(self, logits: list[Any], rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The scores over the rows of all ranks, in their order; raises RuntimeError unless each is scored once.

        "rows" are examples, of which each may have several rows.
        """
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
        if self.kept is not None:
            contexts, right = self.kept
            predictions, _ = self.task.joined(predictions, contexts, self.settings)
            wanted = right[: len(predictions)]
        return {"rows": len(predictions), **self.task.score(predictions, wanted)}


Judges = Judge | comparing.Judge | asking.Asker


def judge_of(job: Job, rank: int) -> Judges | None:
    """The judge of a job whose task labels or compares, or whose model answers while it trains; None for others."""
    if job.objective.name == "denoising" and isinstance(job.recipe, FinetuneRecipe):
        asks = asking.figures_of(job.recipe, {"is_encoder_decoder": True}) and _total(job)
        return asking.Asker(job, rank, _total(job)) if asks else None
    if isinstance(job.recipe, FinetuneRecipe) and job.recipe.task.name in COMPARING:
        return comparing.Judge(job, rank, _total(job))
    return Judge(job, rank) if job.labels is not None else None


class HeldOut:
    """This rank's validation rows, and who judges them, of each stream of a job."""

    def __init__(self, job: Job, rank: int):
        self.job = job
        self.each = [(stream, rows_of(stream, rank), judge_of(stream, rank)) for stream in job.streams]

    def __bool__(self) -> bool:
        return any(rows for _, rows, _ in self.each)

    def measure(self, engine: Any) -> dict[str, Any]:
        """`measure`, of several streams `mixed.together`."""
        found = [
            measure(engine, rows, TABLE[stream.objective.name].parts, judge, loss_of(held_out(stream.objective)))
            for stream, rows, judge in self.each
        ]
        job = self.job
        return mixed.together(dict(zip(job.names, found, strict=True)), job.shares) if job.beside else found[0]


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
