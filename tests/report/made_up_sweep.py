"""A sweep's folder as `manta tune` leaves it, made up: no trial is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.schema import FinetuneRecipe, TuneRecipe

SPACE: dict[str, Any] = {
    "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
    "adapt.method": {"choice": ["full", "lora"]},
    "adapt.rank": {"randint": [4, 12], "when": {"adapt.method": "lora"}},
}


def line(name: str, loss: float | None, status: str = "complete", **more: Any) -> dict[str, Any]:
    """A line of the table of trials."""
    figures = {} if loss is None else {"validation_loss": loss}
    made: dict[str, Any] = {"trial": name, "overrides": {"optimizer.lr": 1e-3, "adapt.method": "full"}}
    return made | {"status": status, "step": None, "figures": figures, "reason": ""} | more


FIVE = [
    line("000", 3.0),
    line("001", None, "failed", reason="<b>no</b> memory"),
    line("002", 4.0, "given up", step=3),
    line("003", 2.0, overrides={"optimizer.lr": 1e-2, "adapt.method": "lora", "adapt.rank": 8}),
    line("004", 2.5),
]


def write(
    output: Path, trials: list[dict[str, Any]], finish: bool = True, points: int = 3, planned: int = 0, **search: Any
) -> artifacts.Folder:
    """The sweep `found` below `output`: finished, or broken off while the last of its trials was under way."""
    raw = {
        "kind": "tune",
        "name": "found",
        "output": str(output),
        "trial": {
            "kind": "finetune",
            "data": {"examples": "pairs"},
            "model": {"source": "base"},
            "task": {"name": "summarisation"},
            "batch": {"samples": 8},
            "stop": {"steps": 9},
        },
        "search": {"space": SPACE, "trials": planned or len(trials) or 1, **search},
    }
    recipe = recipes.validate(raw)
    assert isinstance(recipe, TuneRecipe)
    with artifacts.draft(recipe, {}, None, replace=False) as draft:
        assert isinstance(draft, artifacts.Draft)
        for one in trials:
            for run in runs(one["trial"], search.get("repeats", 1)):
                _trial(draft.folder, run, one, points)
        table = "".join(json.dumps(one) + "\n" for one in trials)
        if finish:
            draft.folder.write_text("trials.jsonl", table)
            draft.folder.write_text("best.yaml", "kind: finetune\n")
            best = min(
                (one for one in trials if one["status"] == "complete"),
                key=lambda one: one["figures"]["validation_loss"],
            )
            draft.finish(
                {
                    "trials": len(trials),
                    "best_trial": best["trial"],
                    "best_overrides": best["overrides"],
                    "objectives": best["figures"],
                    "importance": {"optimizer.lr": 0.75, "adapt.method": 0.25},
                }
            )
        else:
            draft.folder.write_text("work/trials.jsonl", table)
        return draft.folder


def runs(trial: str, repeats: int) -> list[str]:
    return [trial] if repeats == 1 else [f"{trial}-{repeat}" for repeat in range(repeats)]


def _trial(folder: artifacts.Folder, run: str, one: dict[str, Any], points: int) -> None:
    recipe = recipes.validate(
        {
            "kind": "finetune",
            "name": run,
            "output": f"{folder.url}/trials",
            "data": {"examples": "pairs"},
            "model": {"source": "base"},
            "task": {"name": "summarisation"},
            "batch": {"samples": 8},
            "stop": {"steps": 9},
        }
    )
    assert isinstance(recipe, FinetuneRecipe)
    with artifacts.draft(recipe, {}, None, replace=False) as draft:
        assert isinstance(draft, artifacts.Draft)
        if one["status"] != "failed":
            steps = range(3, 3 * points + 1, 3)
            lines = [{"step": step, "kind": "validation", "loss": 9.0 - step / (3 * points)} for step in steps]
            said = "".join(json.dumps(each) + "\n" for each in lines)
            draft.folder.write_text("metrics.jsonl", said + '{"step": 99, "kind": "validation", "lo')
        if one["status"] == "complete":
            draft.finish({"validation_loss": one["figures"]["validation_loss"]})
