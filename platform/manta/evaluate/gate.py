"""What a recipe's gate demands, and each figure that misses it, named with its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.errors import InputError

if TYPE_CHECKING:
    from manta.schema import EvaluateRecipe
    from manta.sections.outcome import Gate

# A compressed model whose perplexity is twice its base's is refused even where no recovery is demanded: its files are wrong,
# or it was taken apart and not healed. Who studies such models names a lower gate.perplexity_recovery.
COLLAPSED = 50.0


class Demand(NamedTuple):
    """A key of the gate, which is also the figure that it judges. `words` formats a value; `needs` is how it is measured."""

    at_least: bool
    words: str
    needs: str


DEMANDS = {
    "perplexity_recovery": Demand(True, "{:.2f}%", "model.base and data.shards"),
    "token_drift": Demand(False, "{:.4f}", "model.base and data.shards"),
    "score_recovery": Demand(True, "{:.2f}%", "model.base and evaluate.task"),
    "size_ratio": Demand(False, "{:.3f}", "model.base"),
    "speedup_1": Demand(True, "{:.2f}", "model.base and evaluate.speed"),
    "speedup_16": Demand(True, "{:.2f}", "model.base and evaluate.speed"),
    "cpu_speedup_1": Demand(True, "{:.2f}", "model.base and evaluate.speed"),
    "cpu_speedup_16": Demand(True, "{:.2f}", "model.base and evaluate.speed"),
    "first_token_ms": Demand(False, "{:.1f}", "evaluate.speed"),
}


def check(recipe: EvaluateRecipe, rows: bool, task: bool) -> None:
    """Raise InputError for what is demanded and not measured. `rows`, `task`: whether perplexity and a score are."""
    gate, speed, base = recipe.gate, recipe.evaluate.speed, recipe.model.base is not None
    measured = {
        "perplexity_recovery": base and rows,
        "token_drift": base and rows,
        "score_recovery": base and task,
        "size_ratio": base and (rows or task or speed is not None),
        "first_token_ms": speed is not None,
    }
    for name, demand in DEMANDS.items():
        demanded = getattr(gate, name)
        if demanded is None:
            continue
        if not measured.get(name, base and speed is not None):
            raise InputError(f"gate.{name} = {demanded:g} cannot be measured: set {demand.needs}")
        batch = 16 if name.endswith("16") else 1
        if "speed" in demand.needs and speed is not None and batch not in speed.batches:
            raise InputError(
                f"gate.{name} = {demanded:g}: evaluate.speed.batches = {speed.batches} leaves {batch} out: add it"
            )


def missed(
    gate: Gate, figures: Mapping[str, Any], intervals: Mapping[str, Any] | None = None, compressed: bool = False
) -> list[str]:
    """What the gate demands and `figures` do not give, one sentence each; empty when the model passes.

    A figure that is None counts as missed: what could not be measured was not proved. `intervals` are those of the figures
    that have one, read where the gate is to be passed with confidence; `compressed` holds a model to COLLAPSED at least.
    """
    misses = []
    for name, demand in DEMANDS.items():
        demanded, reached = getattr(gate, name), figures.get(name)
        if demanded is None:
            continue
        said = demand.words.format(demanded) if "%" not in demand.words else f"{demanded:g}%"
        wanted = f"the gate demands {said}" if demand.at_least else f"the gate allows {said}"
        near = _near_end((intervals or {}).get(name), demand) if gate.confident else None
        if reached is None:
            why = " (the base scores 0)" if name == "score_recovery" else ""
            misses.append(f"{name} could not be measured{why}; {wanted}")
        elif not _keeps(reached, demanded, demand):
            misses.append(f"{name} is {demand.words.format(reached)}, {wanted}")
        elif near is not None and not _keeps(near, demanded, demand):
            end = "begins at" if demand.at_least else "ends at"
            misses.append(
                f"{name} is {demand.words.format(reached)}, but its 95% interval {end} {demand.words.format(near)} and {wanted} "
                "with confidence: measure more rows, examples or rounds, or take a gentler method"
            )
    kept = figures.get("perplexity_recovery")
    judged = gate.perplexity_recovery is None and "perplexity_recovery" in figures
    if compressed and judged and not (kept is not None and kept >= COLLAPSED):
        misses.append(
            f"perplexity_recovery is {'not a number' if kept is None else f'{kept:.2f}%'}: the model's files are wrong, or it was "
            "taken apart and not healed (set gate.perplexity_recovery to let such a model pass)"
        )
    return [*misses, *_gaps(gate, figures)]


def _gaps(gate: Gate, figures: Mapping[str, Any]) -> list[str]:
    if gate.engine_gap is None:
        return []
    explained = figures.get("token_gap_explained") if gate.token_gap is None else gate.token_gap
    judged = {
        "engine_gap": ("perplexity differs by {:.1%}, gate.engine_gap allows {:.1%}", gate.engine_gap),
        "base_engine_gap": ("perplexity differs by {:.1%}, gate.engine_gap allows {:.1%}", gate.engine_gap),
        "token_gap": (
            "a token's log-probability differs by {:.4f} nats on average, "
            + (
                "precision and compression explain {:.4f}" if gate.token_gap is None else "gate.token_gap allows {:.4f}"
            ),
            explained,
        ),
    }
    misses = []
    for name, (words, allowed) in judged.items():
        gap = figures.get(name)
        if allowed is not None and gap is not None and not gap <= allowed:
            which = "the base" if name.startswith("base") else "this model"
            misses.append(
                f"vllm and transformers disagree on {which}: {words.format(gap, allowed)} (its files are wrong, or one "
                "engine reads them wrongly)"
            )
    return misses


def _keeps(value: float, demanded: float, demand: Demand) -> bool:
    return value >= demanded if demand.at_least else value <= demanded  # not a number keeps nothing


def _near_end(interval: Any, demand: Demand) -> float | None:
    """The end of an interval that lies nearer to failing."""
    return None if interval is None else float(interval[0 if demand.at_least else 1])
