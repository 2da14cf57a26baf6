"""How much does a sweep train to find what a random search finds, and what does it take to schedule its trials?

Searches are compared over learning curves: each configuration of a grid is trained once for real (tune_curves.py), and both
searches look their trainings up, with several seeds. Scheduling is measured with 200 trials whose
training takes no time. What a trial takes beyond its training is measured with real ones.
"""

from __future__ import annotations

import functools

import harness
import tune_curves
import tune_driver
import tune_overhead
import tune_search
from tune_search import Comparison

IN_FLIGHT = 4


def main() -> None:
    with harness.bench("tune", __doc__) as bench:
        searches(bench)
        tune_overhead.compared(bench, repeats=2 if bench.quick else 4)
        scheduling(bench)


def searches(bench: harness.Bench) -> None:
    """TPE with successive halving against a random search, and against plain Optuna with the same sampler and pruner."""
    grid, trials = (tune_curves.QUICK, 24) if bench.quick else (tune_curves.FULL, 64)
    seeds = range(5 if bench.quick else 20)
    curves = tune_curves.curves(grid, bench.say)
    budget, noise = trials * grid.steps, tune_curves.noise(grid, curves)
    bench.settings["searches"] = {
        "configurations": len(grid.configurations),
        "steps": grid.steps,
        "marks": list(grid.marks),
        "random_trials": trials,
        "in_flight": IN_FLIGHT,
        "seeds": len(seeds),
    }
    found: dict[str, list[Comparison]] = {}
    for seed in seeds:
        best = tune_search.random_best(grid, curves, trials, seed)
        sides = {
            "manta": (lambda seed: tune_search.manta(grid, curves, IN_FLIGHT, seed), best + noise),
            "optuna": (lambda seed: tune_search.optuna(grid, curves, IN_FLIGHT, seed), best + noise),
            "optuna_one_by_one": (lambda seed: tune_search.optuna(grid, curves, 1, seed), best + noise),
            "exactly": (lambda seed: tune_search.manta(grid, curves, IN_FLIGHT, seed), best),
        }
        for name, (side, target) in sides.items():
            found.setdefault(name, []).append(tune_search.compared(side(seed), target, budget, best))
    _tell(bench, found, trials, noise)


def _tell(bench: harness.Bench, found: dict[str, list[Comparison]], trials: int, noise: float) -> None:
    mine = found["manta"]
    bench.figure("seed_noise", noise, "nats", "deviation of the best configuration's loss over seeds of its training")
    for name, sort, within in (
        ("", "manta", f"to within {noise:.3f} nats, the seeds' noise,"),
        ("_exactly", "exactly", "exactly"),
    ):
        reached = sum(one.reached for one in found[sort])
        note = (
            f"steps until the best loss of {trials} full random trials was reached {within} / their steps; {reached} of "
            f"{len(mine)} seeds reached it; trainings are looked up"
        )
        bench.figure(f"steps_share_vs_random{name}", [one.share for one in found[sort]], "", note)
    note = "best validation loss after a quarter of the random search's steps, less its best; below 0 is better"
    bench.figure("best_score_minus_random", [one.difference for one in mine], "nats", note)
    for name in ("optuna", "optuna_one_by_one"):
        theirs = found[name]
        note = f"the same share of plain Optuna, {IN_FLIGHT if name == 'optuna' else 1} in flight"
        bench.figure(f"steps_share_{name}", [one.share for one in theirs], "", note)
        total = sum(one.share for one in mine) / sum(one.share for one in theirs)
        bench.figure(f"steps_vs_{name}", total, "x", "steps of all seeds together: Manta / plain Optuna")


def scheduling(bench: harness.Bench) -> None:
    """Many trials whose training takes no time."""
    few, trials = 60, 200
    bench.settings["scheduling"] = {"trials": [few, trials], "at_once": tune_driver.AT_ONCE}
    sides = {str(count): functools.partial(tune_driver.scheduled, count) for count in (few, trials)}
    runs = bench.alternate(sides, 1, label="scheduling")
    done = [run for run in runs[str(trials)] if not run.error]
    note = f"CPU of the driver and of the keeper for each of {trials} trials whose training takes no time"
    bench.figure("driver_ms_per_trial", [run.value("driver_ms") for run in done], "ms", note)
    bench.figure("keeper_ms_per_trial", [run.value("keeper_ms") for run in done], "ms", "of which the keeper")
    note = f"wall time a trial, {tune_driver.AT_ONCE} at once"
    bench.figure("wall_ms_per_trial", [run.value("wall_ms") for run in done], "ms", note)
    grown = [more.value("held_mib") - less.value("held_mib") for less, more in zip(*runs.values(), strict=True)]
    bench.figure("driver_mib_grown", grown, "MiB", f"memory of both after {trials} trials, less that after {few}")


if __name__ == "__main__":
    main()
