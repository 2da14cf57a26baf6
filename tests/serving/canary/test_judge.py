"""When a new version is found worse, as good, or neither: what the bounds are worth, and what looking often does to them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.canary.arms import CANARY, MOST, STABLE, TIMES, Arm, merged
from serving.canary.judge import GOOD, OPEN, WORSE, Judge, Limits, compare_errors, compare_times, wilson

TIMES_LIMITS = dict.fromkeys(TIMES, 1.25)
USUAL = Limits(200, 0.02, TIMES_LIMITS, 0.95)


def arm(requests: int, errors: int = 0, **times: list[float]) -> Arm:
    made = Arm(requests, errors)
    for name, values in times.items():
        made.counts[name], made.times[name] = len(values), list(values)
    return made


def arms(stable: Arm, canary: Arm) -> dict[str, Arm]:
    return {STABLE: stable, CANARY: canary}


def draw(random: np.random.Generator, number: int, times_as_long: float = 1.0) -> list[float]:
    return list(times_as_long * random.lognormal(-2.0, 0.5, number))


RATES = st.tuples(st.integers(0, 60), st.integers(1, 300)).map(lambda pair: (min(pair), max(pair)))


class TestErrors:
    @given(RATES, st.floats(0.1, 5.0))
    def test_a_rate_lies_between_its_bounds_which_widen_with_what_they_are_to_hold(self, rate, z):
        errors, requests = rate
        low, high = wilson(errors, requests, z)
        assert 0.0 <= low <= errors / requests + 1e-12 and errors / requests - 1e-12 <= high <= 1.0
        wider = wilson(errors, requests, z + 0.5)
        assert wider[0] <= low + 1e-12 and wider[1] >= high - 1e-12

    def test_wilsons_example(self):
        """Newcombe 1998 (two-sided intervals), table I: 15 of 148, and 0 of 20."""
        assert wilson(15, 148, 1.959964) == pytest.approx((0.0624, 0.1605), abs=5e-5)
        assert wilson(0, 20, 1.959964) == pytest.approx((0.0, 0.1611), abs=5e-5)

    def test_newcombes_example(self):
        """Newcombe 1998 (differences), table II, method 10: 56 of 70 less 48 of 80."""
        found = compare_errors(arm(80, 48), arm(70, 56), 1.959964, 1.959964, 0.0)
        assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)

    @given(RATES, RATES, st.integers(1, 20))
    def test_an_error_more_of_the_canary_never_speaks_for_it(self, stable, canary, more):
        errors, requests = canary
        before = compare_errors(arm(stable[1], stable[0]), arm(requests, errors), 2.0, 2.0, 0.02)
        after = compare_errors(arm(stable[1], stable[0]), arm(requests, min(requests, errors + more)), 2.0, 2.0, 0.02)
        assert after.low >= before.low - 1e-12 and after.high >= before.high - 1e-12
        assert before.low - 1e-12 <= before.change <= before.high + 1e-12


class TestTimes:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(20, 60), st.integers(20, 60), st.floats(0.2, 5.0), st.integers(0, 1000))
    def test_twice_as_long_is_twice_as_long_in_whatever_unit(self, stable, canary, factor, seed):
        random = np.random.default_rng(seed)
        old, new = draw(random, stable), draw(random, canary)
        plain = compare_times("ttft", old, new, 1.6, 1.6, 1.25)
        longer = compare_times("ttft", old, [factor * one for one in new], 1.6, 1.6, 1.25)
        assert plain.low < plain.change < plain.high
        assert (longer.low, longer.change, longer.high) == pytest.approx(
            (factor * plain.low, factor * plain.change, factor * plain.high)
        )
        turned = compare_times("ttft", new[::-1], old[::-1], 1.6, 1.6, 1.25)
        assert (1 / turned.low, 1 / turned.high) == pytest.approx((plain.high, plain.low), rel=0.1)

    def test_the_bounds_hold_as_often_as_they_say(self):
        random = np.random.default_rng(0)
        found = [
            compare_times("ttft", draw(random, 60), draw(random, 30, 1.5), 1.6449, 1.6449, 2.0) for _ in range(400)
        ]
        assert 0.92 < np.mean([one.low <= 1.5 for one in found]) < 0.98
        assert 0.92 < np.mean([one.high >= 1.5 for one in found]) < 0.98

    def test_where_little_was_seen_all_is_possible(self):
        found = compare_times("tpot", [0.1] * 3, [9.0] * 3, 3.0, 3.0, 1.25)
        assert (found.low, found.high) == (0.0, math.inf)

    def test_times_of_nothing_are_no_error(self):
        assert compare_times("tpot", [0.0] * 30, [0.0] * 30, 2.0, 2.0, 1.25).verdict == GOOD


class TestJudge:
    def test_without_any_failure_the_usual_limits_let_it_pass_at_the_first_chance(self):
        judge, random = Judge(USUAL), np.random.default_rng(0)
        verdicts = {
            number: judge.look(arms(arm(9 * number, 0, ttft=draw(random, 9 * number)), arm(number, 0, ttft=draw(random, number))))
            for number in (9, 13, 50, 199, 200)
        }  # fmt: skip
        assert verdicts == {9: OPEN, 13: OPEN, 50: OPEN, 199: OPEN, 200: GOOD}
        assert [figure.name for figure in judge.figures] == ["errors", "ttft"]

    def test_one_that_always_fails_is_sent_back_at_the_first_look(self):
        judge = Judge(USUAL)
        assert judge.look(arms(arm(100), arm(12, 12))) == OPEN
        assert judge.look(arms(arm(110), arm(13, 13))) == WORSE
        [figure] = judge.figures
        assert "errors 100.0% instead of 0.0%" in str(figure)

    @pytest.mark.parametrize("name", TIMES)
    def test_a_slow_one_is_sent_back_whichever_way_it_is_slow(self, name):
        judge, random = Judge(USUAL), np.random.default_rng(0)
        for number in (13, 25, 50, 100, 200):
            counted = arms(
                arm(9 * number, 0, **{name: draw(random, 9 * number)}),
                arm(number, 0, **{name: draw(random, number, 2.0)}),
            )
            if judge.look(counted) == WORSE:
                break
        assert judge.verdict == WORSE and number < 200
        assert [figure.name for figure in judge.figures if figure.verdict == WORSE] == [name]

    def test_what_the_recipe_leaves_out_is_not_compared(self):
        judge = Judge(Limits(200, 0.02, {**TIMES_LIMITS, "tpot": None}, 0.95))
        slow = arms(arm(1800, 0, tpot=[0.1] * 900), arm(200, 0, tpot=[9.0] * 200))
        assert judge.look(slow) == GOOD and [figure.name for figure in judge.figures] == ["errors"]

    def test_few_streams_among_many_requests_are_not_compared(self):
        judge = Judge(USUAL)
        assert judge.look(arms(arm(1800, 0, ttft=[0.1] * 180), arm(200, 0, ttft=[9.0] * 19))) == GOOD
        assert [figure.name for figure in judge.figures] == ["errors"]

    def test_what_is_close_stays_open_until_more_is_seen(self):
        judge = Judge(USUAL)
        assert judge.look(arms(arm(1800, 9), arm(200, 4))) == OPEN
        assert judge.look(arms(arm(2700, 13), arm(300, 4))) == OPEN, "no look was due"
        assert judge.looks == 1
        assert judge.look(arms(arm(7200, 36), arm(800, 5))) == GOOD

    def test_when_time_is_over_it_is_looked_at_whatever_there_is(self):
        judge = Judge(USUAL)
        few = arms(arm(500), arm(60))
        assert judge.look(few, last=True) == OPEN and not judge.enough(**few)
        assert not judge.enough(arm(19), arm(500)), "there is nothing to compare it with"
        assert Judge(USUAL).look(arms(Arm(), Arm()), last=True) == OPEN
        assert Judge(USUAL).look(arms(arm(50), arm(9, 9)), last=True) == WORSE

    def test_good_stays_good_unless_it_gets_worse(self):
        judge = Judge(USUAL)
        assert judge.look(arms(arm(1800), arm(200))) == GOOD
        assert judge.look(arms(arm(3600), arm(400, 6))) == GOOD, "close is not worse"
        assert judge.look(arms(arm(7200), arm(800, 200))) == WORSE

    def test_looking_often_sends_no_good_version_back_too_often(self):
        """As good a version, with errors and times that scatter, looked at after each request: at most one in twenty."""
        found = [self.play(seed, 1.0, 0.05) for seed in range(300)]
        assert found.count(WORSE) <= 15 and found.count(GOOD) > 30

    @pytest.mark.parametrize(("times", "errors"), [(1.26, 0.05), (1.0, 0.155)])
    def test_hardly_any_takes_over_that_is_just_worse_than_allowed(self, times, errors):
        assert [self.play(seed, times, errors, 0.05) for seed in range(300)].count(GOOD) <= 15

    def play(self, seed: int, times_as_long: float, errors: float, before: float | None = None) -> str:
        """A comparison with a tenth more of errors allowed, until 320 requests of the canary and three times as many others."""
        random = np.random.default_rng(seed)
        judge = Judge(Limits(80, 0.1, {"ttft": 1.25, "tpot": None, "latency": None}, 0.95))
        slow, quick = draw(random, 320, times_as_long), draw(random, 960)
        bad, good = random.random(320) < errors, random.random(960) < (errors if before is None else before)
        for number in range(1, 321):
            stable = arm(3 * number, int(good[: 3 * number].sum()), ttft=quick[: 3 * number])
            if judge.look(arms(stable, arm(number, int(bad[:number].sum()), ttft=slow[:number]))) != OPEN:
                break
        return judge.verdict

    def test_what_is_told_is_json(self):
        judge = Judge(USUAL)
        counted = arms(arm(400, 1, ttft=[0.1] * 30), arm(50, 0, ttft=[0.2] * 20))
        judge.look(counted)
        told = json.loads(json.dumps(judge.told(counted), allow_nan=False))
        assert told["stable"] == {"requests": 400, "errors": 1, "median_seconds": {"ttft": 0.1}}
        assert {one["name"]: one["verdict"] for one in told["figures"]}["ttft"] in (OPEN, WORSE)


class TestArms:
    def test_what_is_kept_of_many_times_is_a_fair_sample(self):
        made = Arm()
        for number in range(4 * MOST):
            made.add(False, {"ttft": float(number)})
        kept = made.times["ttft"]
        assert len(kept) == MOST and made.counts["ttft"] == 4 * MOST == made.requests
        assert abs(np.mean(kept) - 2 * MOST) < 5 * 4 * MOST / math.sqrt(12 * MOST), "early and late ones alike"

    def test_fronts_are_added_up(self):
        one, other = arm(10, 1, ttft=[0.1]), arm(20, 2, ttft=[0.2], tpot=[0.3])
        whole = merged([json.loads(json.dumps(each.plain())) for each in (one, other)])
        assert whole == arm(30, 3, ttft=[0.1, 0.2], tpot=[0.3])
