"""Finished evaluations of given measurements, as the stage writes them, for the tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.evaluate import run as stage


def written(place: Path, name: str, *, task: str, content: str = "1" * 64, **measured: Any) -> str:
    """An evaluation as the stage writes it, of these measurements; the folder's path."""
    raw = {"kind": "evaluate", "name": name, "output": str(place), "model": {"source": name}}
    raw |= {"data": {"shards": "s", "examples": "e.jsonl"}, "evaluate": {"task": {"name": task}}}
    recipe = recipes.validate(raw)
    outcome = {"nll": [], "tokens": [], "predictions": [], "references": [], "engine_gap": None} | measured
    inputs = {
        role: Resolved(role, ref, "file", ref, content, content)
        for role, ref in (("data.shards", "s"), ("data.examples", "e.jsonl"))
    }
    with artifacts.draft(recipe, inputs, None, replace=False) as draft:
        assert isinstance(draft, artifacts.Draft)
        report = stage.finite(stage.summarise(recipe, {"model": outcome}))  # type: ignore[arg-type]
        draft.folder.write_text("scores.json", json.dumps(report))
        draft.finish(report["figures"])
    return f"{place}/{name}"
