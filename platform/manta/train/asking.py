"""Answers to some of the validation rows while an encoder-decoder trains, scored by the measure of its task."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives import NOT_SCORED
from manta.schema import FinetuneRecipe
from manta.sections.tasks import TextToText
from manta.storage import Folder
from manta.tasks import TASKS
from manta.tasks.encoding import seq2seq
from manta.tasks.scoring import generation

if TYPE_CHECKING:
    import numpy as np

    from manta.train.job import Job


def figures_of(recipe: FinetuneRecipe, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What validation scores of a model of `config` (config.json): the task's figures, of encoder-decoders alone.

    None with ZeRO stage 3: no worker has the whole model then, and all would have to lend their parts for every token.
    None where what is learnt stands before the text and is no part of the model (adapt.method prefix and prompt).
    """
    task, whole = recipe.task, recipe.resources.zero_stage < 3 and recipe.adapt.method not in ("prefix", "prompt")
    asks = isinstance(task, TextToText) and task.score_rows > 0 and whole
    return tuple(TASKS[task.name].FIGURES) if asks and seq2seq.teaches(task, config) else ()


class Asker:
    """Puts evenly spread validation rows to the model; which ones, and which together, no number of workers changes."""

    def __init__(self, job: Job, rank: int, total: int):
        """`total` is how many validation rows there are to choose from."""
        import numpy as np
        from transformers import AutoTokenizer

        from manta.data.shards import load_index
        from manta.data.stream import viewed

        assert isinstance(job.recipe, FinetuneRecipe)
        assert isinstance(job.recipe.task, TextToText)
        self.settings, self.task = job.recipe.task, TASKS[job.recipe.task.name]
        self.compiled = job.recipe.resources.compile
        index, count = load_index(job.feed.shards), min(self.settings.score_rows, total)
        chosen = np.arange(count, dtype=np.int64) * total // count
        groups = [chosen[first : first + generation.AT_ONCE] for first in range(0, count, generation.AT_ONCE)]
        self.mine = [
            viewed(job.feed, index, "validation", each) for each in groups[rank :: job.recipe.resources.workers]
        ]
        self.count, self.pad_id = count, index.pad_id
        with Folder(job.tokenizer).local() as place:
            self.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)

    def figures(self, model: Any) -> dict[str, Any]:
        """{"score_rows": how many were answered, "score", ...: per cent}. All ranks call it and get the same."""
        import torch

        mine = [pair for rows in self.mine for pair in self._answered(model, rows)]
        everybody: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everybody, mine)
        pairs = [pair for part in everybody for pair in part]
        if len(pairs) != self.count:
            raise RuntimeError(f"{len(pairs)} of {self.count} validation rows were answered")
        return {"score_rows": len(pairs), **self.task.score(*zip(*pairs, strict=True))}

    def _answered(self, model: Any, rows: dict[str, np.ndarray]) -> list[tuple[str, str]]:
        """(answer, reference) of each row; the references are as the rows hold them: cut, where they were too long."""
        asked = [ids[mask > 0].tolist() for ids, mask in zip(rows["input_ids"], rows["attention_mask"], strict=True)]
        limit = self.task.max_new_tokens(self.settings)
        with self._as_it_is():
            found = generation.answers(model, asked, self.pad_id or 0, limit, self.settings.beams)
        wanted = [labels[labels != NOT_SCORED].tolist() for labels in rows["labels"]]
        texts = [
            [self.task.decode(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in side]
            for side in (found, wanted)
        ]
        return list(zip(*texts, strict=True))

    def _as_it_is(self) -> Any:
        """Without the compiler: an answer grows token by token, and each length would be compiled anew."""
        import torch

        return torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
