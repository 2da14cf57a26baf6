"""Early stopping: what counts as better, when it is enough, and that a resumed run decides the same."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest

from manta.errors import InputError
from manta.sections.optimisation import EarlyStop
from manta.train.patience import State, exhausted, figure_of, observe, spared


def after(values: list[float], **keys: Any) -> State:
    """The state after validations at steps 10, 20, ..."""
    state, chosen = State(), EarlyStop(**keys)
    for number, value in enumerate(values, 1):
        state = observe(state, 10 * number, value, chosen)
    return state


@pytest.mark.parametrize(
    ("values", "keys", "expected"),
    [
        ([3.0, 2.0, 2.5, 2.0], {}, State(2.0, 20, 2)),
        ([3.0, 2.0, 1.9], {"min_delta": 0.2}, State(2.0, 20, 1)),
        ([3.0, 2.0, 1.7], {"min_delta": 0.2}, State(1.7, 30, 0)),
        ([0.1, 0.4, 0.3], {"mode": "max"}, State(0.4, 20, 1)),
        ([math.nan, 2.0, math.nan], {}, State(2.0, 20, 1)),
        ([math.nan], {}, State(None, 0, 1)),
        ([math.inf, 2.0], {}, State(2.0, 20, 0)),
    ],
)
def test_what_counts_as_better(values: list[float], keys: dict[str, Any], expected: State) -> None:
    assert after(values, **keys) == expected


def test_small_steps_that_add_up_count_against_the_best() -> None:
    """Each is less than min_delta better than the one before, but the third is more than that below the best."""
    assert after([3.0, 2.9, 2.8, 2.7], min_delta=0.25) == State(2.7, 40, 0)


def test_patience_runs_out_after_so_many_in_a_row() -> None:
    chosen = EarlyStop(patience=2)
    assert [exhausted(after([3.0, *[3.0] * more]), chosen) for more in range(4)] == [False, False, True, True]
    assert not exhausted(after([3.0, 3.0, 2.0, 2.0]), chosen)


def test_the_best_checkpoint_is_spared() -> None:
    assert spared(after([3.0, 2.0, 2.5]), EarlyStop()) == 20
    assert spared(after([3.0]), EarlyStop(keep_best=False)) is None
    assert spared(State(), EarlyStop()) is None


def test_a_resumed_run_decides_the_same() -> None:
    values = [3.0, 2.5, 2.6, 2.4, 2.5, 2.6]
    for stopped in range(len(values)):
        state = State(**json.loads(json.dumps(asdict(after(values[:stopped])))))
        for number, value in enumerate(values[stopped:], stopped + 1):
            state = observe(state, 10 * number, value, EarlyStop())
        assert state == after(values) == State(2.4, 40, 2)


def test_the_figure_that_decides() -> None:
    line = {"kind": "validation", "loss": 2.0, "perplexity": 7.4}
    assert figure_of(line, EarlyStop(figure="perplexity")) == 7.4
    with pytest.raises(
        InputError, match=r"early_stop\.figure = 'bleu' is not measured: choose one of loss, perplexity"
    ):
        figure_of(line, EarlyStop(figure="bleu"))
