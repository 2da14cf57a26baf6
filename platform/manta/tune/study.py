"""What a sweep has learnt and therefore tries next: Optuna's samplers and pruners, fed in the sweep's own order.

Optuna keeps nothing on disk here. Whatever it answers is a function of the seed and of what it was told before, so a
sweep that broke off tells it everything again and comes to the same state.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from manta.sections.search import Asha, Hyperband, Median, Search
from manta.tune import draws, figures, space
from manta.tune.draws import Entry
from manta.tune.space import Overrides

ATTEMPTS = 50  # of the sampler to find a configuration that was not tried yet


class Earlier(NamedTuple):
    """A trial of an earlier sweep: what it was, and its figures."""

    overrides: Overrides
    figures: dict[str, float]


class Study:
    """Proposes configurations, and says at a mark whether a trial is given up. Every call counts, and their order."""

    def __init__(self, search: Search, seed: int, steps: int | None, earlier: Sequence[Earlier] = ()):
        """`steps`: of a trial, which Hyperband's brackets follow from."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._entries = space.entries(search)
        self._search, self._drawn = search, [json.dumps(one.overrides, sort_keys=True) for one in earlier]
        self._fixed = {"random": space.sample, "grid": lambda search, _: [*space.grid(search)]}.get(search.method)
        self._planned = self._fixed(search, seed)[: search.trials] if self._fixed else None
        with warnings.catch_warnings():  # multivariate sampling has been called experimental for years
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                n_startup_trials=max(4, min(10, search.trials // 4)),
                constant_liar=True,
            )
        self._study = optuna.create_study(
            sampler=sampler,
            pruner=_pruner(search, steps),
            study_name="sweep",
            directions=["minimize" if mode == "min" else "maximize" for mode in search.objectives.values()],
        )
        for one in earlier:
            self._remember(one)
        self.total = search.trials if self._planned is None else len(self._planned)  # at most: a budget may be spent
        self._trials: list[Any] = []

    def ask(self) -> Overrides | None:
        """The next trial's configuration, numbered in the order of the calls; None if there are no more."""
        number = len(self._trials)
        if number >= self._search.trials or (self._planned is not None and number >= len(self._planned)):
            return None
        if self._planned is not None:
            found = self._planned[number]
            self._study.enqueue_trial(self._parameters(found))
            trial = self._study.ask()
            for path in found:  # Optuna learns what it was, for what matters how much
                _suggest(trial, path, self._entries[path])
        else:
            trial, found = self._new(self._study.ask())
        self._trials.append(trial)
        self._drawn.append(json.dumps(found, sort_keys=True))
        return found

    def report(self, number: int, step: int, value: float) -> bool:
        """Tell what trial `number` has reached at a mark; returns whether it is given up."""
        trial = self._trials[number]
        trial.report(value, step)
        return bool(trial.should_prune())

    def tell(self, number: int, found: Mapping[str, float] | None, given_up: bool = False) -> None:
        """End trial `number`: with its figures, without any where it failed, or given up at the mark reported last."""
        from optuna.trial import TrialState

        trial = self._trials[number]
        if given_up:
            self._study.tell(trial, state=TrialState.PRUNED)
        elif found is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            for name, excess in figures.excess(found, self._search.constraints).items():
                trial.set_constraint(name, excess)
            self._study.tell(trial, [found[name] for name in self._search.objectives])

    def importance(self) -> dict[str, float]:
        """Share of each field in how good trials differ from the rest (PED-ANOVA, Watanabe et al. 2023); {} where too
        few trials are complete, or fields are not the same in all of them. Of the first objective."""
        import optuna
        from optuna.importance import PedAnovaImportanceEvaluator

        sign = 1 if next(iter(self._search.objectives.values())) == "min" else -1  # the evaluator looks for low ones
        if len({frozenset(trial.params) for trial in self._study.get_trials(deepcopy=False)}) != 1:
            return {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it says that low is good, which is meant
                return dict(
                    optuna.importance.get_param_importances(
                        self._study,
                        evaluator=PedAnovaImportanceEvaluator(),
                        target=lambda trial: sign * trial.values[0],
                    )
                )
        except (ValueError, RuntimeError):  # what Optuna raises where there is nothing to compare
            return {}

    def _new(self, trial: Any) -> tuple[Any, Overrides]:
        """A configuration that was not tried yet, as long as the sampler finds one: the same run twice teaches nothing."""
        from optuna.trial import TrialState

        for _ in range(ATTEMPTS):
            found = space.drawn(self._search, lambda path, one, trial=trial: _suggest(trial, path, one))  # type: ignore[misc]
            if json.dumps(found, sort_keys=True) not in self._drawn:
                break
            self._study.tell(trial, state=TrialState.FAIL)
            trial = self._study.ask()
        return trial, found

    def _parameters(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """As Optuna stores them: choices as JSON text, for any value of a recipe may be one."""
        return {
            path: json.dumps(value) if self._entries[path].name == "choice" else value
            for path, value in overrides.items()
        }

    def _remember(self, one: Earlier) -> None:
        from optuna.trial import create_trial

        trial = create_trial(
            params=self._parameters(one.overrides),
            distributions={path: _distribution(self._entries[path]) for path in one.overrides},
            values=[one.figures[name] for name in self._search.objectives],
        )
        for name, excess in figures.excess(one.figures, self._search.constraints).items():
            trial.set_constraint(name, excess)
        self._study.add_trial(trial)


def fits(search: Search, overrides: Mapping[str, Any]) -> bool:
    """Whether a configuration of another sweep is one of this space."""
    if not set(overrides) <= set(search.space):
        return False
    for path, value in overrides.items():
        entry = draws.entry(search.space[path])
        possible = draws.values(entry)
        if possible is not None and value not in possible:
            return False
        if possible is None and not (entry.argument[0] <= value <= entry.argument[1]):
            return False
    return True


def _distribution(entry: Entry) -> Any:
    from optuna import distributions

    if entry.name == "choice":  # any value of a recipe, a list as well
        return distributions.CategoricalDistribution([json.dumps(value) for value in entry.argument])
    low, high = entry.argument
    if entry.name == "randint":
        return distributions.IntDistribution(low, high)
    return distributions.FloatDistribution(float(low), float(high), log=entry.name == "loguniform")


def _suggest(trial: Any, path: str, entry: Entry) -> Any:
    if entry.name == "choice":
        return json.loads(trial.suggest_categorical(path, [json.dumps(value) for value in entry.argument]))
    low, high = entry.argument
    if entry.name == "randint":
        return trial.suggest_int(path, low, high)
    return draws.within([low, high], trial.suggest_float(path, float(low), float(high), log=entry.name == "loguniform"))


def _pruner(search: Search, steps: int | None) -> Any:
    from optuna import pruners

    early = search.early
    if isinstance(early, Asha):
        return pruners.SuccessiveHalvingPruner(min_resource=early.first_step, reduction_factor=early.factor)
    if isinstance(early, Hyperband):
        assert steps is not None
        return pruners.HyperbandPruner(min_resource=early.first_step, max_resource=steps, reduction_factor=early.factor)
    if isinstance(early, Median):
        return pruners.MedianPruner(n_startup_trials=early.after_trials, n_warmup_steps=early.first_step - 1)
    return pruners.NopPruner()


def marks(search: Search, steps: int | None) -> tuple[int, ...]:
    """The steps before a trial's last at which it may be given up, rising."""
    early = search.early
    if early is None or steps is None:
        return ()
    if isinstance(early, Median):
        return tuple(range(early.first_step, steps, early.every_steps))
    found, step = [], early.first_step
    while step < steps:
        found.append(step)
        step *= early.factor
    return tuple(found)
