"""What is done about NaN and spikes: told from a steep start and from noise, and decided alike after a restart."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from manta.sections.optimisation import Stability
from manta.train.stability import State, Verdict, after_restart, feed


def course(losses: list[float], state: State | None = None, start: int = 0, **keys: Any) -> tuple[list[Verdict], State]:
    """The verdicts on steps start, start + 1, ... with these losses."""
    verdicts, state, chosen = [], state or State(), Stability(**keys)
    for step, loss in enumerate(losses, start):
        verdict, state = feed(state, step, loss, 1.0, chosen)
        verdicts.append(verdict)
    return verdicts, state


def actions(verdicts: list[Verdict]) -> list[str]:
    return [verdict.action for verdict in verdicts]


SPIKES: dict[str, Any] = {"policy": "skip", "spike_deviations": 6.0, "window": 32}
# Median 2.0; deviations 0, .1, .1, 0, .2, .2, 0, .1, four times over: median 0.1.
STEADY = [2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0, 2.1] * 4


def test_the_threshold_is_the_median_and_so_many_deviations() -> None:
    """Six times 1.4826 * 0.1 above 2.0 is 2.88956."""
    assert actions(course([*STEADY, 2.8895], **SPIKES)[0])[-1] == "go_on"
    verdicts, state = course([*STEADY, 2.8897], **SPIKES)
    assert actions(verdicts) == ["go_on"] * 32 + ["skip"]
    assert "6.0 deviations above the median 2 of the 32 steps before at step 32" in verdicts[-1].why
    assert state == State(STEADY, 1, 32, [], 1), "a spike does not enter the window"


def test_losses_that_hardly_vary_do_not_make_a_ripple_a_spike() -> None:
    assert actions(course([*[2.0] * 32, 2.0119], **SPIKES)[0])[-1] == "go_on"
    assert actions(course([*[2.0] * 32, 2.0121], **SPIKES)[0])[-1] == "skip"


def test_the_steep_start_of_a_run_has_no_spikes() -> None:
    """Falls from 11 to 3 with the noise of small batches, seen through a window of any size."""
    noise = np.random.default_rng(0).normal(0, 0.15, 2000)
    losses = [3 + 8 * math.exp(-step / 40) + noise[step] for step in range(2000)]
    for window in (32, 50, 200):
        verdicts, _ = course(losses, policy="skip", spike_deviations=8.0, window=window)
        assert actions(verdicts).count("skip") == 0
        jump, _ = course([*losses[:1000], 7.0], policy="skip", spike_deviations=8.0, window=window)
        assert jump[-1].action == "skip"


def test_a_window_that_is_not_full_judges_nothing_but_nan() -> None:
    assert actions(course([2.0] * 31 + [50.0], **SPIKES)[0])[-1] == "go_on"
    assert actions(course([2.0, math.nan], **SPIKES)[0]) == ["go_on", "skip"]


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, None), (2.0, math.inf), (2.0, math.nan)])
def test_what_is_not_finite_stops_by_default(loss: float, norm: float | None) -> None:
    verdict, _ = feed(State(), 4, loss, norm, Stability())
    assert verdict.action == "stop"
    assert "at step 4: lower optimizer.lr or optimizer.grad_clip, or raise schedule.warmup_fraction" in verdict.why
    assert "stability.policy=skip" in verdict.why


def test_a_norm_that_is_not_known_yet_is_no_fault() -> None:
    assert feed(State(), 0, 2.0, None, Stability())[0] == Verdict("go_on")


def test_so_many_in_a_row_are_tolerated() -> None:
    verdicts, state = course([2.0, *[math.nan] * 4], policy="skip", tolerated=3)
    assert actions(verdicts) == ["go_on", "skip", "skip", "skip", "stop"]
    assert "after 3 in a row were left out (stability.tolerated = 3)" in verdicts[-1].why
    assert state.left_out == 3
    verdicts, _ = course([math.nan, math.nan, 2.0] * 5, policy="skip", tolerated=2)
    assert "stop" not in actions(verdicts), "a good step between begins the count anew"


def test_a_roll_back_passes_over_the_batches_that_led_to_it() -> None:
    """A checkpoint at 10; bad at 15, back, and the batches of 14 and 15 are left out the second time."""
    verdicts, bad = course([2.0] * 15 + [math.nan], policy="roll_back")
    assert verdicts[-1].action == "roll_back" and "without the batches of steps 14 to 15" in verdicts[-1].why
    _, at_checkpoint = course([2.0] * 10, policy="roll_back")
    again = after_restart(at_checkpoint, bad)
    assert (len(again.losses), again.in_row, again.passed_over) == (10, 1, [[14, 15]])
    verdicts, state = course([2.0] * 10, again, start=10, policy="roll_back")
    assert actions(verdicts) == ["go_on"] * 4 + ["skip"] * 2 + ["go_on"] * 4
    assert state.left_out == 2


def test_roll_backs_that_do_not_help_reach_further_and_then_stop() -> None:
    state, found = State(), []
    for step in (50, 52, 54, 56):
        verdict, state = feed(state, step, math.nan, None, Stability(policy="roll_back", tolerated=3))
        found.append(verdict.action)
        _, state = course([2.0], state, start=step + 1, policy="roll_back")  # one good step is not calm yet
    assert found == ["roll_back", "roll_back", "roll_back", "stop"]
    assert state.passed_over == [[49, 50], [49, 52], [47, 54]]


def test_a_window_of_good_steps_is_calm_again() -> None:
    _, state = course([math.nan], start=50, policy="roll_back")
    assert course([2.0] * 99, state, start=51, policy="roll_back")[1].in_row == 1
    assert course([2.0] * 101, state, start=51, policy="roll_back")[1].in_row == 0


def test_what_was_learnt_since_the_checkpoint_is_kept_unless_it_knows_already() -> None:
    _, bad = course([2.0, math.nan], policy="roll_back")
    assert after_restart(None, bad).passed_over == [[0, 1]] and after_restart(None, bad).losses == []
    assert after_restart(None, None) == State()
    later = State([1.0], 0, 5, [[0, 1]], 2)
    assert after_restart(later, bad) == later


def test_a_resumed_run_and_every_rank_decide_the_same() -> None:
    losses = [*STEADY, 9.0, 2.0, math.nan, math.nan, 2.1, 30.0]
    expected, last = course(losses, **SPIKES)
    for stopped in range(len(losses)):
        _, state = course(losses[:stopped], **SPIKES)
        state = State(**json.loads(json.dumps(asdict(state))))
        verdicts, state = course(losses[stopped:], state, start=stopped, **SPIKES)
        assert (verdicts, state) == (expected[stopped:], last)
