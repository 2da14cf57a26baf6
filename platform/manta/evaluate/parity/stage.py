"""Parity's part in the evaluate stage: what it refuses beforehand, what it adds to the figures."""

from __future__ import annotations

import json
from typing import Any

from manta.errors import InputError
from manta.evaluate.parity import verdict
from manta.evaluate.parity.measure import FILE, REPORT, measure
from manta.schema import EvaluateRecipe
from manta.storage import Folder

__all__ = ["FILE", "REPORT", "add", "check", "found", "measure"]


def check(recipe: EvaluateRecipe) -> None:
    """Raise InputError for a gate that nothing would feed."""
    if recipe.gate.parity is not None and not recipe.evaluate.parity:
        raise InputError(
            f"gate.parity = {recipe.gate.parity:g} is not measured: set evaluate.parity=true, or gate.parity=null"
        )


def found(folder: Folder) -> dict[str, Any]:
    """What was measured, with `missed`, the sentences that refuse the model."""
    report: dict[str, Any] = json.loads(folder.read_text(FILE))
    return {"passed": not verdict.missed(report), "missed": verdict.missed(report), **report}


def add(figures: dict[str, Any], report: dict[str, Any]) -> None:
    """Put a comparison's figures beside an evaluation's; what it refuses, the evaluation refuses."""
    figures |= verdict.figures(report)
    figures["missed"] = [*figures["missed"], *report["missed"]]
    figures["passed"] = not figures["missed"]
