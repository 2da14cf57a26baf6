"""A sweep's order: what it decides depends on its trials' figures and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from manta.tune import study
from manta.tune.order import END, Order, Reached
from tests.tune.simulated import Sweep, search

ASHA = {"method": "asha", "first_step": 3, "factor": 3}
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "tpe": {"method": "tpe"},
    "asha": {"method": "random", "early": ASHA},
    "tpe and asha": {"method": "tpe", "early": ASHA},
    "tpe and hyperband": {"method": "tpe", "early": {"method": "hyperband", "first_step": 3}},
    "median": {"method": "random", "early": {"method": "median", "first_step": 3, "every_steps": 3, "after_trials": 3}},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_the_order_in_which_results_come_changes_nothing(name: str) -> None:
    made = search(trials=20, **SEARCHES[name])
    first = Sweep(made, chance=0).run()
    assert len(first) == 20
    for chance in range(1, 8):
        assert Sweep(made, chance=chance).run() == first
    assert Sweep(made, seed=1).run() != first, "the seed does"


@pytest.mark.parametrize("name", ["tpe and asha", "tpe and hyperband", "median"])
def test_a_sweep_that_is_told_its_old_results_stands_where_it_stood(name: str) -> None:
    made = search(trials=20, **SEARCHES[name])
    whole = Sweep(made).run()
    for moment in range(1, 40, 3):
        broken = Sweep(made, chance=moment)
        for _ in range(moment):
            broken.step()
        again = Sweep(made, chance=moment + 1)
        again.order._known.update(broken.order._known)
        again.order.advance()
        assert again.told() == broken.told()
        assert again.run() == whole


def test_asha_stops_by_hand() -> None:
    """Two in flight, marks at 1 and 2 of 4 steps, the better half goes on."""
    made = search(trials=4, in_flight=2, early={"method": "asha", "first_step": 1, "factor": 2})
    order = Order(study.Study(made, 0, 4), 2, "validation_loss", lambda _: (study.marks(made, 4), 4.0))
    order.advance()
    assert study.marks(made, 4) == (1, 2)
    assert [(one.number, one.next) for one in order.waited_for] == [(0, 1), (1, 1)]
    order.reached(1, 1, Reached({"validation_loss": 5.0}))
    order.advance()
    assert order.goes_on(1, 1) is None, "trial 0 is before it on the clock"
    order.reached(0, 1, Reached({"validation_loss": 3.0}))
    order.advance()
    assert order.goes_on(0, 1) is True, "the first one is the best so far"
    assert order.goes_on(1, 1) is False, "the worse of two"
    # Trial 2 starts at time 1 in the place of trial 1: its first mark is at time 2, as trial 0's second one.
    assert [(one.number, one.next) for one in order.waited_for] == [(0, 2), (2, 1)]
    order.reached(2, 1, Reached({"validation_loss": 2.0}))
    order.advance()
    assert order.goes_on(2, 1) is None
    order.reached(0, 2, Reached({"validation_loss": 2.5}))
    order.advance()
    assert order.goes_on(0, 2) is True
    assert order.goes_on(2, 1) is True, "better than 3 and 5"
    order.reached(0, END, Reached({"validation_loss": 2.4}, ended=True))
    order.advance()
    assert order.members[0].status == "under way", "its end is at time 4, trial 2's second mark at 3"
    order.reached(2, 2, Reached({"validation_loss": 9.0}))
    order.advance()
    assert order.members[2].status == "given up"
    assert order.members[2].step == 2


def test_giving_up_saves_steps() -> None:
    whole, asha = Sweep(search(trials=27)), Sweep(search(trials=27, early=ASHA))
    whole.run()
    asha.run()
    assert sum(whole.trained.values()) == 27 * 27
    assert sum(asha.trained.values()) < 0.5 * 27 * 27


def test_a_failed_trial_is_a_trial() -> None:
    sweep = Sweep(search(trials=3, in_flight=1))
    sweep.order.reached(0, END, Reached({}, True, "out of memory"))
    sweep.order.advance()
    sweep.run()
    assert [one.status for one in sweep.order.members] == ["failed", "complete", "complete"]
    assert sweep.order.members[0].failure == "out of memory"


def test_a_trial_that_ends_before_its_mark_is_complete() -> None:
    sweep = Sweep(search(trials=2, early=ASHA))
    sweep.order.reached(0, END, Reached({"validation_loss": 1.0}, ended=True))
    sweep.run()
    assert sweep.order.members[0].status == "complete"


def test_no_trial_starts_when_the_budget_is_spent() -> None:
    made = search(trials=9, in_flight=2)
    order = Order(study.Study(made, 0, 4), 2, "validation_loss", lambda _: ((), 1.0), lambda number: number < 3)
    order.advance()
    for number in range(3):
        order.reached(number, END, Reached({"validation_loss": 1.0}, ended=True))
    order.advance()
    assert order.finished
    assert len(order.members) == 3
