"""A running endpoint becomes what its recipe says now: at once, or once a share of the requests has shown that it may."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from manta import cluster
from manta.errors import GateRefused, InputError, MantaError, StageFailed
from manta.progress import Progress
from manta.schema import ServeRecipe
from manta.sections.outcome import Canary as Settings
from serving import deploy
from serving import launch as launches
from serving.canary.arms import CANARY, STABLE, Arm, merged
from serving.canary.judge import GOOD, OPEN, WORSE, Judge, Limits
from serving.deploy import Running
from serving.launch import Canary, Launch, Served

SLOTS = ("", "@b")  # what tells two versions of a model apart in Serve's names; they take turns
POLL_SECONDS = 1.0
TELL_SECONDS = 5.0  # for what a Front has counted

Tell = Callable[[dict[str, Any]], None]


class CalledOff(StageFailed):
    """Whoever asked for the update wants it no more."""


def update(
    running: Running,
    recipe: ServeRecipe,
    progress: Progress,
    tell: Tell = lambda _: None,
    wanted: Callable[[], bool] = lambda: True,
) -> Running:
    """Replace a running endpoint by what the recipe says now, with no request failed: the new replicas of a model start
    beside the old ones, and take over when each has given a real answer; with `serve.canary`, when they have also shown on
    a share of the requests that they fail no more and take no longer. Several models change together or not at all.

    `tell` gets the figures of a canary again and again, at last with what became of it; `wanted` may call it off.
    Raises InputError or GateRefused where the recipe cannot follow, StageFailed when the new replicas do not come up or it
    cannot be told how good they are, GateRefused when they are worse; the endpoint is then as it was.
    """
    old, new = running.launch, next_launch(running.launch, recipe)
    started = time.monotonic()
    changed, settings = _changed(old, new), recipe.serve.canary
    trial = Trial(old, changed, settings, progress, tell, wanted) if settings is not None and changed else None
    try:
        if trial is not None:
            trial.run()
            new = _in_slots(new, {one.name: one.slot for one in trial.canaries})
            # All requests go to the new version at once; the old one ends when it is asked no more.
            _become(dataclasses.replace(new, canary=Canary(tuple(before for before, _ in changed), 0.0)))
        handle = _become(new)
    except MantaError as failed:
        progress.note(f"{failed}: going back to the old version")
        _become(old)
        if trial is not None:
            trial.end("went back", str(failed))
        raise type(failed)(f"{failed}; {old.name} goes on as it was") from failed
    if trial is not None:
        trial.end("promoted")
    processes = deploy.processes_of(handle) if cluster.is_local() else {}
    return running._replace(launch=new, ready_seconds=time.monotonic() - started, processes=processes)


def next_launch(old: Launch, recipe: ServeRecipe) -> Launch:
    """What a running endpoint shall become. Raises InputError where it cannot, or GateRefused."""
    free = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"port": 0})})
    new = dataclasses.replace(launches.prepare(free), port=old.port, key_hashes=old.key_hashes)
    if old.is_single:
        raise InputError(
            f"{old.name} has one replica that holds the port itself, and cannot be replaced while it runs: stop it, and set "
            "serve.front=true (or more replicas) to have the next one updated"
        )
    if (new.name, new.host) != (old.name, old.host) or new.is_single:
        raise InputError(
            f"{old.name} on {old.host} cannot become {new.name} on {new.host} with serve.front = {recipe.serve.front} while it runs: "
            "leave name, serve.host and serve.front as they are, or stop it and start the other"
        )
    new = _in_slots(new, {one.name: one.slot for one in old.served})
    for before, after in _changed(old, new) if recipe.serve.canary is not None else ():
        if before.tasks != after.tasks:
            raise InputError(
                f"serve.canary: the new version of {after.name} answers other paths than the old one, and cannot be compared "
                "with it: leave serve.canary out, or give it another name"
            )
    return new


def _changed(old: Launch, new: Launch) -> list[tuple[Served, Served]]:
    """The models whose replicas have to be replaced: as they are, and as they shall be."""
    from serving.app import version

    local = cluster.is_local()
    before = {one.name: one for one in old.served}
    pairs = [(before[one.name], one) for one in new.served if one.name in before]
    return [(was, one) for was, one in pairs if version(was, local) != version(one, local)]


def _in_slots(launch: Launch, slots: Mapping[str, str]) -> Launch:
    served = tuple(dataclasses.replace(one, slot=slots.get(one.name, one.slot)) for one in launch.served)
    return dataclasses.replace(launch, served=served)


def _become(launch: Launch) -> Any:
    """Have Serve make the endpoint this, and wait until it is. Returns a handle of its Front."""
    return deploy.wait_running(launch, deploy.submit(launch))


class Trial:
    """New versions of some models on a share of their requests, from their start until it is told how good they are."""

    def __init__(
        self,
        old: Launch,
        changed: Iterable[tuple[Served, Served]],
        settings: Settings,
        progress: Progress,
        tell: Tell,
        wanted: Callable[[], bool],
    ):
        self.old = old
        self.settings = settings
        # In the slot that is free: what has proved itself stays, and need not be started once more.
        self.canaries = tuple(
            dataclasses.replace(after, slot=SLOTS[1 - SLOTS.index(before.slot)]) for before, after in changed
        )
        self._progress = progress
        self._tell = tell
        self._wanted = wanted
        self._counted: dict[str, Mapping[str, Any]] = {}  # Front -> what it told last, and those that are gone
        times = {name: getattr(settings, f"max_{name}_ratio") for name in ("ttft", "tpot", "latency")}
        limits = Limits(settings.requests, settings.max_error_rate_increase, times, settings.confidence)
        self._judges = {one.name: Judge(limits, len(self.canaries)) for one in self.canaries}
        self._state = "starting"

    def run(self) -> None:
        """Start the new versions, give them their share, and compare. Returns when they may take over, with as many replicas
        as the old ones have. Raises GateRefused where one is worse, StageFailed where it cannot be told, CalledOff.
        """
        settings = self.settings
        names = ", ".join(self._judges)
        self._tell(self._told())
        self._progress.note(f"a canary of {names} starts beside the old version")
        few = tuple(_share_of(one, settings.share) for one in self.canaries)
        _become(self._beside(few, 0.0))  # nobody is to wait for replicas that are still starting
        front = _become(self._beside(few, settings.share))
        self._progress.note(f"the canary of {names} gets {100 * settings.share:g}% of the requests")
        self._compare(front)
        counts = deploy.running_replicas(self.old.name)
        before = {one.name: counts.get(one.deployment, 0) for one in self.old.served}
        full = tuple(_as_many(one, before[one.name]) for one in self.canaries)
        if full != few:
            _become(self._beside(full, settings.share))

    def end(self, state: str, reason: str | None = None) -> None:
        """Tell what became of it."""
        self._state = state
        self._tell({**self._told(), "reason": reason})

    def _beside(self, canaries: tuple[Served, ...], share: float) -> Launch:
        return dataclasses.replace(self.old, canary=Canary(canaries, share))

    def _compare(self, front: Any) -> None:
        self._state = "comparing"
        until = time.monotonic() + self.settings.seconds
        while True:
            over = time.monotonic() >= until
            if not self._wanted():
                raise CalledOff("the update is called off")
            self._counted |= _ask_fronts(front, self._progress)
            self._look(over)
            self._tell(self._told())
            verdicts = {judge.verdict for judge in self._judges.values()}
            if WORSE in verdicts:
                raise GateRefused(f"the new version is worse: {self._why(WORSE)}")
            if verdicts == {GOOD}:
                self._progress.note("the new version is as good: it takes over")
                return
            if over:
                break
            time.sleep(POLL_SECONDS)
        said = f"it cannot be told whether the new version is as good: {self._why(OPEN)}"
        if self.settings.inconclusive == "go-back":
            raise StageFailed(said)
        self._progress.note(f"{said}; it takes over, as serve.canary.inconclusive = 'promote'")

    def _look(self, last: bool) -> None:
        for name, judge in self._judges.items():
            before = judge.looks
            judge.look(self._arms(name), last)
            if judge.looks > before:
                requests = self._arms(name)[CANARY].requests
                figures = "; ".join(map(str, judge.figures))
                self._progress.note(f"{name}: the canary after {requests} requests: {figures}")
        fewest = min((self._arms(name) for name in self._judges), key=lambda arms: arms[CANARY].requests)
        done = min(fewest[CANARY].requests, self.settings.requests)
        stable, canary = (sum(self._arms(one)[name].errors for one in self._judges) for name in (STABLE, CANARY))
        wanted = self.settings.requests
        self._progress.update(done, wanted, "requests", canary_errors=canary, stable_errors=stable)

    def _arms(self, model: str) -> dict[str, Arm]:
        return {
            name: merged(told[model][name] for told in self._counted.values() if model in told)
            for name in (STABLE, CANARY)
        }

    def _why(self, verdict: str) -> str:
        """What was found of the models of this verdict."""
        return "; ".join(
            self._reason(name, judge, verdict) for name, judge in self._judges.items() if judge.verdict == verdict
        )

    def _reason(self, name: str, judge: Judge, verdict: str) -> str:
        arms = self._arms(name)
        if verdict == OPEN and not judge.enough(arms[STABLE], arms[CANARY]):
            return (
                f"{name} had not enough traffic: {arms[CANARY].requests} of serve.canary.requests = {self.settings.requests} in "
                f"{self.settings.seconds:g} s (the old version {arms[STABLE].requests})"
            )
        return f"{name}: " + ", ".join(str(figure) for figure in judge.figures if figure.verdict == verdict)

    def _told(self) -> dict[str, Any]:
        """Where it stands, as JSON has it."""
        versions = {one.name: {STABLE: one.fingerprint} for one in self.old.served}
        models = {
            one.name: {
                "fingerprints": {**versions[one.name], CANARY: one.fingerprint},
                **self._judges[one.name].told(self._arms(one.name)),
            }
            for one in self.canaries
        }
        return {"state": self._state, "settings": self.settings.model_dump(mode="json"), "models": models}


def _ask_fronts(front: Any, progress: Progress) -> dict[str, Mapping[str, Any]]:
    """What each Front has counted: Front -> model -> version -> counts. One that is being replaced tells nothing."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        told = front.broadcast("trials").results(timeout_s=TELL_SECONDS, return_exceptions=True)
    except (
        RayError,
        RayServeException,
        TimeoutError,
    ) as error:  # a Front that is late or gone is no reason to stop: the next look asks again
        told = [error]
    for failed in (one for one in told if isinstance(one, Exception)):
        progress.note(f"a Front did not tell what it counted: {type(failed).__name__}")
    return dict(one for one in told if not isinstance(one, Exception))


def _share_of(served: Served, share: float) -> Served:
    """With replicas for a share of the requests."""
    least, most = (max(1, math.ceil(share * number)) for number in (served.min_replicas, served.max_replicas))
    return dataclasses.replace(served, min_replicas=least, max_replicas=most)


def _as_many(served: Served, number: int) -> Served:
    """With at least so many replicas, as far as its own limits go."""
    return dataclasses.replace(served, min_replicas=max(1, served.min_replicas, min(number, served.max_replicas)))
