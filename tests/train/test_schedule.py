"""Steps, batches and learning rates: plain arithmetic."""

from __future__ import annotations

import itertools

import pytest

from manta.errors import InputError
from manta.sections.optimisation import Schedule
from manta.sections.resources import TrainResources
from manta.sections.train import Batch, Stop
from manta.train.schedule import SCHEDULES, accumulation, batch_rows, learning_rate, planned_steps


def test_batch_in_samples_or_tokens() -> None:
    assert batch_rows(Batch(samples=12), 256) == 12
    assert batch_rows(Batch(tokens=4096), 256) == 16


def test_batch_tokens_that_are_no_whole_rows() -> None:
    with pytest.raises(InputError, match=r"batch\.tokens = 5000 .* set batch\.tokens=4864 or batch\.tokens=5120"):
        batch_rows(Batch(tokens=5000), 256)


@pytest.mark.parametrize(
    ("stop", "steps"),
    [
        (Stop(steps=7), 7),
        (Stop(tokens=8192), 2),
        (Stop(tokens=8193), 3),
        (Stop(epochs=1.0), 7),
        (Stop(epochs=0.3), 2),
        (Stop(epochs=3.0), 19),
        (Stop(tokens=1), 1),
    ],
)
def test_planned_steps(stop: Stop, steps: int) -> None:
    """100 rows of 256 tokens, 16 rows a step."""
    assert planned_steps(stop, 16, 100, 256) == steps


def test_accumulation_follows_from_resources() -> None:
    assert accumulation(16, TrainResources(workers=2, micro_batch=4)) == 2
    assert accumulation(16, TrainResources(workers=1, micro_batch=1)) == 16


@pytest.mark.parametrize(
    ("rows", "workers", "micro_batch", "remedy"),
    [
        (16, 3, 1, r"set resources\.workers=2"),
        (16, 2, 3, r"set resources\.micro_batch=2"),
        (4, 2, 8, r"set resources\.micro_batch=2"),
    ],
)
def test_shares_that_do_not_come_out_even(rows: int, workers: int, micro_batch: int, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        accumulation(rows, TrainResources(workers=workers, micro_batch=micro_batch))


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
def test_every_step_moves_the_weights_and_none_exceeds_the_peak(name: str, steps: int, warmup: float) -> None:
    if name == "wsd" and warmup == 1.0:
        warmup = 0.8  # the rest is its decay
    schedule = Schedule.model_validate({"name": name, "warmup_fraction": warmup})
    rates = [learning_rate(step, steps, 2.0, schedule) for step in range(steps)]
    assert all(0.0 < rate <= 2.0 for rate in rates)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_decay_ends_at_the_floor(name: str) -> None:
    schedule = Schedule.model_validate({"name": name, "warmup_fraction": 0.1, "min_lr_fraction": 0.1})
    rates = [learning_rate(step, 100, 1.0, schedule) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_halfway_values() -> None:
    schedule = {"warmup_fraction": 0.0, "min_lr_fraction": 0.0}
    assert learning_rate(25, 101, 1.0, Schedule(name="cosine", **schedule)) == pytest.approx(0.8535534)
    assert learning_rate(25, 101, 1.0, Schedule(name="linear", **schedule)) == pytest.approx(0.75)
    assert learning_rate(25, 101, 1.0, Schedule(name="constant", **schedule)) == 1.0


def test_wsd_is_stable_and_then_falls_by_the_root() -> None:
    schedule = Schedule(name="wsd", warmup_fraction=0.1, min_lr_fraction=0.0, decay_fraction=0.25)
    rates = [learning_rate(step, 100, 2.0, schedule) for step in range(100)]
    assert rates[:10] == pytest.approx([2.0 * (step + 1) / 11 for step in range(10)])
    assert rates[10:75] == [2.0] * 65
    assert rates[75:] == pytest.approx([2.0 * (1 - (number / 25) ** 0.5) for number in range(1, 26)])


def test_a_longer_wsd_run_repeats_the_stable_part_of_a_shorter_one() -> None:
    """Without a warm-up that depends on the length: a checkpoint before the decay can be carried on to any length."""
    schedule = Schedule(name="wsd", warmup_fraction=0.0)
    shorter, longer = ([learning_rate(step, steps, 1.0, schedule) for step in range(80)] for steps in (100, 1000))
    assert shorter == longer == [1.0] * 80


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"name": "cosine", "decay_fraction": 0.2}, r"cosine does not read schedule\.decay_fraction = 0\.2: .*=wsd"),
        ({"name": "wsd", "decay_fraction": None}, r"decay_fraction = None: wsd needs it"),
        ({"name": "wsd", "warmup_fraction": 0.5, "decay_fraction": 0.6}, r"more than the whole run: lower one of them"),
    ],
)
def test_schedules_that_contradict_themselves(given: dict[str, object], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Schedule.model_validate(given)
    assert Schedule.model_validate(Schedule(name="wsd").model_dump()) == Schedule(name="wsd", decay_fraction=0.2)
