"""The figures of a trial: by which of them it may be judged, and whether they keep what the recipe asks for."""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manta import mix
from manta.errors import Problem
from manta.schema import CompressTrial, FinetuneRecipe, FinetuneTrial, TuneRecipe
from manta.sections.search import Limit

# Known whenever a trial validates: the figure of the validation by which trials are also given up.
DURING = {
    "validation_loss": "loss",
    "validation_perplexity": "perplexity",
    "validation_score": "score",
    "validation_accuracy": "accuracy",
    "validation_macro_f1": "macro_f1",
    "validation_exact_match": "exact_match",
    "validation_margin": "margin",
    "validation_mrr": "mrr",
}
# Known at a trial's end. `train_seconds` is the time that its workers were held, `model_bytes` the weights' files.
AT_END = {
    "finetune": ("final_loss", "tokens_per_second", "parameters", "train_seconds", "worker_seconds", "model_bytes"),
    "pretrain": ("final_loss", "tokens_per_second", "parameters", "train_seconds", "worker_seconds", "model_bytes"),
    "compress": ("size_ratio", "size_bytes", "seconds", "cpu_seconds", "worker_seconds", "model_bytes"),
}
# What an evaluation knows that compares with a base, that measures speed, and that does both.
OF_BASE = ("perplexity_ratio", "perplexity_recovery", "token_drift", "score_recovery", "size_ratio")
OF_SPEED = (
    "tokens_per_second_1",
    "tokens_per_second_16",
    "prefill_tokens_per_second",
    "first_token_ms",
    "peak_memory_bytes",
)
SPEEDUPS = ("speedup_1", "speedup_16", "cpu_speedup_1", "cpu_speedup_16")
# What follows a trial, by what stands in its manifest; a figure that an evaluation was not asked for is missing there.
AFTERWARDS = {
    "compress": ("size_ratio", "size_bytes", "seconds", "cpu_seconds", "model_bytes"),
    "evaluate": ("perplexity", "score", "seconds", "cpu_seconds", *OF_BASE, *OF_SPEED, *SPEEDUPS),
    "latency": ("p50_ms", "p95_ms", "first_token_ms", "ms_per_token"),
}
COST = "cost"
# What trains models that generate, and therefore have figures of single tokens.
GENERATING = {
    "finetune": ("summarisation", "translation", "chat", "preference"),
    "pretrain": ("clm", "denoising"),
}
OF_TOKENS = (
    "first_token_ms",
    "ms_per_token",
    "tokens_per_second_1",
    "tokens_per_second_16",
    "prefill_tokens_per_second",
)


def known(recipe: TuneRecipe) -> list[str]:
    """The figures that objectives and constraints may name."""
    kind = recipe.trial.kind
    during = [] if kind == "compress" else [*DURING]
    if isinstance(first := recipe.first, FinetuneRecipe) and first.mix:  # scores of several tasks have no mean
        during = ["validation_loss", *(f"validation_loss_{name}" for name in mix.names(first))]
    after = [
        f"{stage}.{name}"
        for stage, names in AFTERWARDS.items()
        if getattr(recipe.after, stage) is not None
        for name in names
        if (name not in OF_TOKENS or _generates(recipe)) and (stage != "evaluate" or _evaluates(recipe, name))
    ]
    cost = [COST] if recipe.search.price_per_hour is not None else []
    return [*during, *AT_END[kind], *cost, *after]


def _evaluates(recipe: TuneRecipe, name: str) -> bool:
    """Whether the evaluation of each trial is asked for what the figure needs."""
    asked = recipe.after.evaluate
    assert asked is not None
    compares = asked.base is not None or name not in (*OF_BASE, *SPEEDUPS)
    return compares and (asked.evaluate.speed is not None or name not in (*OF_SPEED, *SPEEDUPS))


def _generates(recipe: TuneRecipe) -> bool:
    trial = recipe.trial
    if isinstance(trial, CompressTrial):
        return True
    learnt = trial.task.name if isinstance(trial, FinetuneTrial) else trial.objective.name
    return learnt in GENERATING[trial.kind]


def cost(figures: Mapping[str, float], price_per_hour: float | None) -> dict[str, float]:
    """{"cost": what the workers of a trial cost while it trained}, in the currency of the price; {} without one."""
    return {} if price_per_hour is None else {COST: figures["worker_seconds"] / 3600 * price_per_hour}


def problems(recipe: TuneRecipe) -> Iterator[Problem]:
    """Objectives and constraints of figures that no trial has."""
    names = known(recipe)
    for section, asked in (("objectives", recipe.search.objectives), ("constraints", recipe.search.constraints)):
        for name in asked:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield Problem(f"search.{section}.{name}", None, f"choose one of {', '.join(names)}{hint}")


def at_mark(validation: Mapping[str, Any]) -> dict[str, float]:
    """A validation's figures by the names that objectives have."""
    names = {key: name for name, key in DURING.items()} | {
        key: f"validation_{key}"
        for key in validation
        if key.startswith("loss_")  # of a mix's streams
    }
    return {name: float(validation[key]) for key, name in names.items() if validation.get(key) is not None}


def missing(figures: Mapping[str, Any], names: Mapping[str, Any]) -> str | None:
    """Why a trial cannot be judged by `names`; None if it can."""
    for name in names:
        value = figures.get(name)
        if value is None:
            return f"{name} was not measured"
        if not math.isfinite(value):
            return f"{name} is {value}: the training diverged"
    return None


def excess(figures: Mapping[str, Any], constraints: Mapping[str, Limit]) -> dict[str, float]:
    """How far each constraint is missed; 0 or below where it is kept."""
    found = {}
    for name, limit in constraints.items():
        value = float(figures[name])
        found[name] = value - limit.at_most if limit.at_most is not None else (limit.at_least or 0.0) - value
    return found


def mean(repeats: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Of each figure that all repeats have: the mean, and the deviation of a sample (n - 1), {} of a single one."""
    names = [name for name in repeats[0] if all(name in one for one in repeats)]
    values = {name: [one[name] for one in repeats] for name in names}
    if len(repeats) == 1:
        return dict(repeats[0]), {}
    return (
        {name: statistics.fmean(found) for name, found in values.items()},
        {
            name: statistics.stdev(found) if all(map(math.isfinite, found)) else math.nan
            for name, found in values.items()
        },
    )
