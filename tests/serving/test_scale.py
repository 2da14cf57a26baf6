"""How many replicas a load asks for, what a replica tells of its load, and which cores it gets."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from serving.fleet import cores, scale
from serving.fleet.load import WINDOW_SECONDS, Job, Load
from serving.fleet.scale import Policy, Scale
from tests.serving.fake_engine import served


def wanted(policy: Policy, now: int = 2, **figures: list[float]) -> float:
    told = {name: {f"r{number}": value for number, value in enumerate(values)} for name, values in figures.items()}
    context = SimpleNamespace(current_num_replicas=now, target_num_replicas=now, aggregated_metrics=told)
    return policy(context)[0]


class TestPolicy:
    def test_requests(self):
        policy = Policy(target_requests=4, target_tokens=None, target_ttft_ms=None)
        assert wanted(policy, requests=[6, 6]) == 3.0
        assert wanted(policy, requests=[1, 1]) == 0.5
        assert wanted(policy, requests=[0, 0]) == 0.0

    def test_tokens_where_they_ask_for_more(self):
        policy = Policy(target_requests=4, target_tokens=1000, target_ttft_ms=None)
        assert wanted(policy, requests=[1, 1], tokens=[4000, 500]) == 4.5
        assert wanted(policy, requests=[8, 8], tokens=[4000, 0]) == 4.0

    @pytest.mark.parametrize(("ttft", "found"), [(900, 3.0), (400, 2.0), (200, 0.5), (0, 0.5)])
    def test_a_late_first_token_asks_for_one_more_and_a_fair_one_keeps_what_there_is(self, ttft, found):
        policy = Policy(target_requests=4, target_tokens=None, target_ttft_ms=500)
        assert wanted(policy, requests=[1, 1], ttft_ms=[ttft, 0]) == found

    def test_before_anybody_has_told_anything_all_stays(self):
        assert wanted(Policy(4, None, None), now=3) == 3

    def test_serve_takes_it(self):
        """Its own copy, in a process that knows nothing of Manta, as its controller may be."""
        config = scale.options(0, 3, Scale(4.0, 1000.0, None, 2.0, 30.0))["autoscaling_config"]
        assert (config.min_replicas, config.max_replicas, config.initial_replicas) == (0, 3, 1)
        assert (config.upscale_delay_s, config.downscale_delay_s) == (2.0, 30.0)
        pickled = config.policy.get_serialized_policy_def()
        program = (
            "import pickle, sys; from types import SimpleNamespace as S\n"
            f"made = pickle.loads({pickled!r})(**{config.policy.policy_kwargs!r})\n"
            "print(made(S(current_num_replicas=1, target_num_replicas=1, aggregated_metrics={'requests': {1: 6}, 'tokens': {1: 0}}))[0])\n"
        )
        plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        told = subprocess.run(
            [sys.executable, "-c", program], env=plain, cwd="/", capture_output=True, text=True, check=True
        )
        assert told.stdout == "1.5\n"

        assert scale.options(1, 3, Scale(4.0, None, None, 2.0, 30.0))["autoscaling_config"].initial_replicas is None

    def test_a_fixed_number_is_not_scaled(self):
        assert scale.options(2, 2, Scale(4.0, None, None, 1.0, 1.0)) == {"num_replicas": 2}


class TestLoad:
    def test_what_is_not_done_counts(self):
        now = [0.0]
        load = Load(lambda: now[0])
        first, second = Job(load, 10), Job(load, 1)
        assert load.figures() == {"requests": 2.0, "tokens": 11.0, "ttft_ms": 0.0}
        now[0] = 0.5
        for _ in range(3):
            first.piece()
        second.piece()
        second.piece()  # it said less than it took
        assert load.figures() == {"requests": 2.0, "tokens": 7.0, "ttft_ms": 500.0}
        first.end()
        second.end()
        assert load.figures() == {"requests": 0.0, "tokens": 0.0, "ttft_ms": 500.0}
        now[0] += WINDOW_SECONDS + 1
        assert load.figures()["ttft_ms"] == 0.0


class TestCores:
    def test_replicas_of_all_models_are_apart(self):
        models = [served(name="a", cpus=2, max_replicas=2), served(name="b", cpus=1, max_replicas=3)]
        begin = cores.first_cores(models)
        got = [
            cores.cores_of(place, begin[one.deployment], one.cpus, range(10, 17))
            for one in models
            for place in range(one.max_replicas)
        ]
        assert got == [[10, 11], [12, 13], [14], [15], [16]]

    def test_a_second_version_never_meets_the_first(self):
        """Whichever of them is served, and whichever stands beside it."""
        models = [served(name="a", max_replicas=2), served(name="b")]
        news = [dataclasses.replace(one, slot="@b", max_replicas=1) for one in models]
        alone, both = cores.first_cores(models), cores.first_cores([*models, *news])
        turned = cores.first_cores([dataclasses.replace(news[0], max_replicas=2), models[1], models[0]])
        assert alone == {"Replica-a": 0, "Replica-b": 2}
        assert both == {**alone, "Replica-a@b": 3, "Replica-b@b": 5}
        assert turned == {"Replica-a": 0, "Replica-b": 2, "Replica-a@b": 3}

    def test_who_finds_none_left_is_bound_to_none(self):
        assert cores.cores_of(1, 0, 2, [0, 1, 2]) == []

    def test_the_process_and_what_it_starts_are_bound(self):
        program = (
            "import os, subprocess, sys, threading; from serving.fleet import cores\n"
            "held = threading.Event(); thread = threading.Thread(target=held.wait); thread.start()\n"
            "have = sorted(os.sched_getaffinity(0)); mine = cores.bind(len(have) - 1, 0, 1)\n"
            "child = subprocess.run([sys.executable, '-c', 'import os; print(*os.sched_getaffinity(0))'], capture_output=True)\n"
            "bound = [os.sched_getaffinity(thread.native_id), os.sched_getaffinity(0), {int(child.stdout)}]\n"
            "held.set(); print(mine == [have[-1]], all(one == {have[-1]} for one in bound))\n"
        )
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert told.stdout == "True True\n"


def test_figures_are_what_the_policy_reads():
    figures: dict[str, Any] = Load().figures()
    assert set(figures) == {"requests", "tokens", "ttft_ms"}
