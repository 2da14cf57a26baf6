"""What an update with a canary does at each step, without Serve: who stands beside whom, and what becomes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from manta.errors import GateRefused, InputError, StageFailed
from manta.progress import Progress
from manta.sections.outcome import Canary
from serving import deploy, update
from serving.canary.arms import CANARY, STABLE, Arm
from serving.launch import Launch
from tests.serving.fake_engine import launch, served

OLD = launch(front=True, served=(served(name="a", min_replicas=2, max_replicas=8), served(name="b")))


class Serve:
    """Serve as `update` knows it: what it was told to become, and what the Fronts counted meanwhile."""

    def __init__(self) -> None:
        self.became: list[Launch] = []
        self.counts: dict[str, Any] = {}
        self.polls = 0
        self.breaks_at = 0  # the step that does not come up

    def submit(self, plan: Launch) -> str:
        self.became.append(plan)
        return "Front"

    def wait_running(self, plan: Launch, _: str) -> Any:
        if len(self.became) == self.breaks_at:
            raise StageFailed("the weights are damaged")
        return SimpleNamespace(broadcast=lambda method: SimpleNamespace(results=self._results))

    def _results(self, timeout_s: float, return_exceptions: bool) -> list[Any]:
        self.polls += 1
        return [("front", self.counts), TimeoutError("another Front")]

    def steps(self) -> list[dict[str, Any]]:
        """Deployments of each step -> fewest and most replicas, and the canary's share."""
        return [
            {
                **{one.deployment: (one.min_replicas, one.max_replicas) for one in plan.versions},
                "share": plan.canary and plan.canary.share,
            }
            for plan in self.became
        ]


def count(errors: int = 0, requests: int = 400) -> dict[str, Any]:
    return {STABLE: Arm(9 * requests).plain(), CANARY: Arm(requests, errors).plain()}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    made = Serve()
    monkeypatch.setattr(update, "POLL_SECONDS", 0.01)
    with (
        mock.patch.multiple(deploy, submit=made.submit, wait_running=made.wait_running),
        mock.patch.object(deploy, "running_replicas", return_value={"Replica-a": 5, "Replica-b": 1}),
        mock.patch("manta.cluster.is_local", return_value=False),
    ):
        yield made


def become(new: Launch, told: list[Any] | None = None, wanted: Any = lambda: True, **canary: Any) -> Launch:
    settings = SimpleNamespace(serve=SimpleNamespace(canary=Canary(**canary)))
    with mock.patch.object(update, "next_launch", return_value=new):
        running = deploy.Running("http://x", OLD, 1.0, {})
        return update.update(running, settings, Progress(quiet=True), (told or []).append if told is None else told.append, wanted).launch  # fmt: skip


def changed(*names: str, **changes: Any) -> Launch:
    new = {**{"model": "/new", "fingerprint": "c" * 64}, **changes}
    return dataclasses.replace(
        OLD, served=tuple(dataclasses.replace(one, **new) if one.name in names else one for one in OLD.served)
    )


def test_the_steps_of_one_that_takes_over(serve):
    """It first only stands there, has a few replicas for its share, then as many as the old one has, then all requests."""
    serve.counts, told = {"a": count()}, []
    now = become(changed("a"), told, share=0.3)
    old, few = {"Replica-a": (2, 8), "Replica-b": (1, 1)}, {"Replica-a@b": (1, 3)}
    assert serve.steps() == [
        {**old, **few, "share": 0.0},
        {**old, **few, "share": 0.3},
        {**old, "Replica-a@b": (5, 8), "share": 0.3},
        {"Replica-a@b": (2, 8), "Replica-b": (1, 1), "Replica-a": (2, 8), "share": 0.0},
        {"Replica-a@b": (2, 8), "Replica-b": (1, 1), "share": None},
    ]
    assert now == serve.became[-1] and now.find("a").slot == "@b"
    assert [one["state"] for one in told] == ["starting", "comparing", "promoted"]


def test_the_next_one_gets_the_slot_that_is_free(serve):
    serve.counts = {"a": count()}
    old = dataclasses.replace(OLD, served=tuple(dataclasses.replace(one, slot="@b") for one in OLD.served))
    with mock.patch(f"{__name__}.OLD", old):
        now = become(changed("a"))
    assert (now.find("a").deployment, now.find("b").deployment) == ("Replica-a", "Replica-b@b")


@pytest.mark.parametrize(("of_b", "kind", "said"), [
    (count(200), GateRefused, r"worse: b: errors 50\.0% instead of 0\.0%.*goes on as it was"),
    (count(0, 3), StageFailed, r"b had not enough traffic: 3 of serve\.canary\.requests = 200 in 0\.1 s \(the old version 27\)"),
])  # fmt: skip
def test_of_several_all_take_over_or_none(serve, of_b, kind, said):
    serve.counts, told = {"a": count(), "b": of_b}, []
    with pytest.raises(kind, match=said):
        become(changed("a", "b"), told, seconds=0.1)
    assert serve.became[-1] == OLD and len(serve.became) == 3
    assert told[-1]["state"] == "went back" and {name: one["verdict"] for name, one in told[-1]["models"].items()}["a"] == "good"  # fmt: skip


def test_what_cannot_be_told_may_take_over_if_the_recipe_says_so(serve):
    serve.counts = {"a": count(0, 3)}
    assert become(changed("a"), seconds=0.05, inconclusive="promote").find("a").model == "/new"


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_whichever_step_fails_the_old_version_goes_on(serve, step):
    serve.counts, serve.breaks_at, told = {"a": count()}, step, []
    with pytest.raises(StageFailed, match="the weights are damaged; tiny goes on as it was"):
        become(changed("a"), told)
    assert len(serve.became) == step + 1 and serve.became[-1] == OLD and told[-1]["reason"] == "the weights are damaged"


def test_it_can_be_called_off(serve):
    with pytest.raises(update.CalledOff, match="called off"):
        become(changed("a"), wanted=lambda: serve.polls < 3)
    assert serve.polls == 3 and serve.became[-1] == OLD


def test_a_front_that_was_restarted_has_not_counted_for_nothing(serve):
    results = iter([[("one", {"a": count(0, 150)})], [("other", {"a": count(0, 50)})]])
    serve._results = lambda **_: next(results)
    told: list[Any] = []
    become(changed("a"), told)
    assert told[-1]["models"]["a"]["canary"]["requests"] == 200


@pytest.mark.parametrize("changes", [{}, {"min_replicas": 1}])
def test_where_no_model_changes_there_is_nothing_to_compare(serve, changes):
    new = dataclasses.replace(
        changed("a", model="/m", fingerprint=OLD.served[0].fingerprint, **changes), max_body_bytes=5
    )
    assert become(new) == new and serve.became == [new]


def test_what_answers_other_tasks_is_refused(serve_recipe, tmp_path):
    recipe = serve_recipe(tmp_path, tmp_path, front=True, canary={})
    new = changed("a", tasks=("fill-mask",), runner="transformers")
    with (
        mock.patch("serving.update.launches.prepare", return_value=new),
        mock.patch("manta.cluster.is_local", return_value=True),
        pytest.raises(InputError, match=r"serve\.canary: the new version of a answers other paths"),
    ):
        update.next_launch(OLD, recipe)
