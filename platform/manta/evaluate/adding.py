"""What each measurement of a model, and of its base, adds to an evaluation's report: figures, intervals, single results."""

from __future__ import annotations

from typing import Any

from manta.evaluate import perplexity as perplexities
from manta.evaluate import recovery, scores
from manta.evaluate.robustness import summary
from manta.schema import EvaluateRecipe


def sizes(figures: dict[str, Any], measured: dict[str, dict[str, Any]], timed: dict[str, Any] | None) -> None:
    """Bytes of the weights, by whoever has seen them."""
    found: dict[str, int] = {}
    for seen in (measured, timed["usage"] if timed else {}):
        found |= {role: one["weight_bytes"] for role, one in seen.items() if "weight_bytes" in one}
    if "model" in found:
        figures["size_bytes"] = found["model"]
    if {"model", "base"} <= set(found):
        figures |= {"base_size_bytes": found["base"], "size_ratio": round(found["model"] / found["base"], 4)}


def perplexity(report: dict[str, Any], model: dict[str, Any], base: dict[str, Any] | None, seed: int) -> None:
    figures, intervals, tokens = report["figures"], report["intervals"], model["tokens"]
    figures["perplexity"] = perplexities.perplexity(model["nll"], tokens)
    figures["perplexity_tokens"] = sum(tokens)
    intervals["perplexity"] = recovery.perplexity_interval(model["nll"], tokens, seed)
    report["nll"] = {"model": model["nll"], "tokens": tokens}
    if base is not None:
        figures["base_perplexity"] = perplexities.perplexity(base["nll"], tokens)
        figures["perplexity_ratio"] = figures["perplexity"] / figures["base_perplexity"]
        figures["perplexity_recovery"] = recovery.perplexity_recovery(figures["perplexity"], figures["base_perplexity"])
        intervals["perplexity_recovery"] = recovery.perplexity_recovery_interval(
            model["nll"], base["nll"], tokens, seed
        )
        report["nll"]["base"] = base["nll"]
        # A vocabulary that was trimmed spells some rows in more tokens: then there is nothing to compare one by one.
        if "logs" in model and [len(row) for row in model["logs"]] == [len(row) for row in base["logs"]]:
            rows = recovery.drift_rows(model["logs"], base["logs"])
            figures["token_drift"] = recovery.drift(rows)
            intervals["token_drift"] = recovery.drift_interval(rows, seed)


def score(report: dict[str, Any], task: str, model: dict[str, Any], base: dict[str, Any] | None, seed: int) -> None:
    figures, intervals = report["figures"], report["intervals"]
    scored = scores.score(task, model["predictions"], model["references"])
    figures["score"] = scored.score
    figures["task_samples"] = len(scored.each)
    intervals["score"] = recovery.score_interval(scored.shares, seed)
    report["task"] = {"name": task, "figures": scored.figures}
    rows = [
        {"reference": wanted, "prediction": answer, "score": points}
        for wanted, answer, points in zip(model["references"], model["predictions"], scored.each, strict=True)
    ]
    if base is not None:
        bases = scores.score(task, base["predictions"], base["references"])
        figures["base_score"] = bases.score
        figures["score_recovery"] = recovery.score_recovery(scored.score, bases.score)
        intervals["score_recovery"] = recovery.score_recovery_interval(scored.shares, bases.shares, seed)
        report["task"]["base_figures"] = bases.figures
        for row, answer, points in zip(rows, base["predictions"], bases.each, strict=True):
            row |= {"base_prediction": answer, "base_score": points}
    if "confidence" in model:
        report["task"]["labels"] = model["labels"]
        for row, shares in zip(rows, model["confidence"], strict=True):
            row["confidence"] = shares
    report["examples"] = rows


def robustness(report: dict[str, Any], recipe: EvaluateRecipe, model: dict[str, Any]) -> None:
    settings, task = recipe.evaluate.robustness, recipe.evaluate.task
    if settings is not None and task is not None:
        found = summary.summarised(task.name, model, settings.attack, recipe.seed)
        report["robustness"] = found
        report["figures"] |= summary.single(found)
