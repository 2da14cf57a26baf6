"""What a fine-tuning has before its first step: the task's examples as rows, and what the model says of them as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manta import recipe as recipes
from manta.artifact import Draft
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.train.marks import Marks


def task_rows(recipe: FinetuneRecipe, draft: Draft, source: str, progress: Progress, marks: Marks | None = None) -> str:
    """Tokenised rows of the task's examples, written once: below the run's own folder, or where a sweep's runs share them."""
    from manta.tasks.encoding import rows

    folder = draft.folder / "work/rows" if marks is None else Folder(marks.shared) / _rows_name(recipe, draft)
    with folder.locked():
        if not folder.exists("shards.json"):
            with Folder(source).local() as model:
                rows.write(recipe, draft.inputs, Path(model), folder, progress)
    return folder.url


def _rows_name(recipe: FinetuneRecipe, draft: Draft) -> str:
    """A name for all that decides the rows, and for what the model says of them before it is trained."""
    decides: dict[str, Any] = {
        "data": recipe.data.model_dump(mode="json"),
        "task": recipe.task.model_dump(mode="json"),
        "packing": recipe.batch.packing,
        "inputs": {role: found.content for role, found in draft.inputs.items()},
        "precision": recipe.optimizer.precision if recipe.task.name == "preference" else None,
    }
    return recipes.digest(decides)[:16]


def ask_before(recipe: FinetuneRecipe, draft: Draft, progress: Progress, marks: Marks | None = None) -> None:
    """What the model says of the task's pairs before it is trained, stored beside their rows."""
    from manta.models import load
    from manta.train import reference

    source = load.model_url(draft.inputs["model.source"])
    folder = Folder(task_rows(recipe, draft, source, progress, marks))
    with folder.locked():
        reference.store(recipe, folder, source, progress)
