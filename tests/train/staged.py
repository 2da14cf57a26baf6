"""A recipe through its real stage, in a line; for tests of whole runs."""

from __future__ import annotations

from typing import Any

from manta import recipe as recipes
from manta import stage
from manta.artifact import Artifact
from manta.progress import Progress


def made(raw: dict[str, Any]) -> Artifact:
    """What a raw recipe leaves."""
    recipe = recipes.validate(raw)
    assert not isinstance(recipe, recipes.PipelineRecipe)
    return stage.run(recipe, Progress(quiet=True)).artifact
