"""Training on rows that hold several texts side by side: what their batches must be like, and how they are judged."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from manta.errors import InputError
from manta.objectives import loss_of
from manta.schema import FinetuneRecipe
from manta.sections.resources import TrainResources
from manta.sections.tasks import EmbeddingTask, Task
from manta.tasks import COMPARING

if TYPE_CHECKING:
    import numpy as np

    from manta.train.job import Job


def check_groups(task: Task, resources: TrainResources) -> None:
    """Raise InputError unless each forward pass holds whole groups of examples that are compared with each other.

    Then a group is always the same consecutive samples of the global order, however many workers there are.
    """
    if not isinstance(task, EmbeddingTask) or resources.micro_batch % task.group == 0:
        return
    fitting = -(-resources.micro_batch // task.group) * task.group
    raise InputError(
        f"task.group = {task.group} does not divide resources.micro_batch = {resources.micro_batch}, and the examples of a group are "
        f"compared with each other, so they are computed together: set resources.micro_batch={fitting}, or another task.group"
    )


def each_rank(total: int, job: Job) -> int:
    """How many of `total` validation rows a rank has: equally many on all, in whole groups where rows are compared."""
    group = getattr(job.objective, "group", 1)
    return math.ceil(total / (job.recipe.resources.workers * group)) * group


class Judge:
    """Scores what the objective computed of the validation rows, all of them together."""

    def __init__(self, job: Job, rank: int, rows: int):
        assert isinstance(job.recipe, FinetuneRecipe)
        self.settings = job.recipe.task
        self.task, self.loss, self.rows = COMPARING[self.settings.name], loss_of(job.objective), rows
        share = each_rank(rows, job)
        self.mine = max(0, min(share, rows - rank * share))  # those behind them only fill up the rank's share

    def keeping(self, kept: list[Any]) -> Callable[..., Any]:
        """The objective, which also adds what it computed to the list."""
        return functools.partial(self.loss, keep=kept)

    def figures(self, kept: list[Any], rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The scores over the rows of all ranks, in their order; raises RuntimeError unless each is scored once."""
        import numpy as np
        import torch

        mine = (torch.cat(kept).numpy()[: self.mine], {name: values[: self.mine] for name, values in rows.items()})
        everybody: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everybody, mine)
        found = np.concatenate([part for part, _ in everybody])
        columns = {name: np.concatenate([part[name] for _, part in everybody]) for name in rows}
        if len(found) != self.rows:
            raise RuntimeError(f"{len(found)} of {self.rows} validation rows were scored")
        predictions = self.task.predictions(found, columns, self.settings)
        return {"rows": len(found), **self.task.score(predictions, self.task.references(columns))}
