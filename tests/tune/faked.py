"""Sweeps whose runs are played: a Keeper that is asked and told as Ray Tune's side does it, with artifacts by a formula."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manta import recipe as recipes
from manta.schema import TuneRecipe
from manta.storage import Folder
from manta.tune import keeper
from manta.tune.keeper import Keeper, Plan

Task = dict[str, Any]
Ending = tuple[str, str]  # status and reason
PATIENCE = 20_000  # turns of the event loop in which nothing is to be done


class Mailbox:
    """Keeps what the keeper says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.put = self

    def remote(self, message: dict[str, Any]) -> None:
        if "note" in message:
            self.notes.append(message["note"])


def complete(folder: Path, kind: str, **metrics: Any) -> None:
    """What a stage leaves, as far as a sweep reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": kind, "name": folder.name, "metrics": metrics}))
    (folder / "COMPLETE").write_text("")


def loss_of(task: Task, step: float) -> float:
    """Least at a rate of 3e-3, less the longer it trains, and other for another seed."""
    rate = task["recipe"]["optimizer"]["lr"]
    return float(abs(rate - 3e-3) * 100 + 1 / (1 + step) + 0.01 * task["recipe"]["seed"])


class Cluster:
    """Plays the runs of a sweep, `at_once` of them, in an order that `chance` decides."""

    def __init__(
        self,
        recipe: TuneRecipe,
        folder: Path,
        at_once: int = 2,
        chance: int = 0,
        ending: Callable[[Task], Ending | None] = lambda _: None,
        loss: Callable[[Task, float], float] = loss_of,
    ):
        """`ending(task)`: how a process ends instead of doing its work; None where it does it."""
        self.recipe, self.folder, self.at_once, self.ending, self.loss = recipe, folder, at_once, ending, loss
        self.source, self.mailbox = random.Random(chance), Mailbox()
        self.launched: list[str] = []
        self.alive: dict[str, Task] = {}
        self.crowds: list[set[str]] = []  # which runs had a process when a measuring one started
        self.trained: dict[str, int] = {}  # training -> steps that were trained, over all processes
        self.keeper = self.attempt()

    def attempt(self) -> Keeper:
        """A keeper that knows nothing but the folder."""
        self.alive.clear()
        plan = Plan(recipes.resolved(self.recipe), {}, str(self.folder), self.at_once, ())
        self.keeper = Keeper(plan, self.mailbox)
        return self.keeper

    def run(self, launches: int | None = None) -> list[dict[str, Any]]:
        """Play to the end, or until so many runs were started; returns the table of trials."""
        return asyncio.run(asyncio.wait_for(self._run(launches), 120))

    async def _run(self, launches: int | None) -> list[dict[str, Any]]:
        running: set[asyncio.Task[None]] = set()
        idle = 0
        while True:
            running = {one for one in running if not one.done() or one.result()}
            if launches is not None and len(self.launched) >= launches:
                break
            told = await self.keeper.next() if len(running) < self.at_once else None
            if told == "finished":
                assert not running
                break
            if isinstance(told, dict):
                idle = 0
                self.launched.append(told["run"])
                running.add(asyncio.create_task(self._process(told)))
            elif not running:
                raise AssertionError("nothing runs, nothing is started, and it is not finished")
            idle += 1
            assert idle < PATIENCE, f"{sorted(self.alive)} wait for each other"
            await asyncio.sleep(0)
        for one in running:
            one.cancel()
        return list((await self.keeper.table())["trials"])

    async def _process(self, task: Task) -> None:
        if task["measure"]:
            self.crowds.append(set(self.alive))
        assert not any(one["measure"] for one in self.alive.values()), "a measuring run is alone"
        self.alive[task["run"]] = task
        await self._pause()
        status, reason = self.ending(task) or await self._work(task)
        del self.alive[task["run"]]
        await self.keeper.ended(task["run"], status, reason)

    async def _pause(self) -> None:
        for _ in range(self.source.randrange(6)):
            await asyncio.sleep(0)

    async def _work(self, task: Task) -> Ending:
        trials, recipe = self.folder / "trials", task["recipe"]
        if task["measure"]:
            place = trials / f"{task['run']}.latency"
            place.mkdir(exist_ok=True)
            (place / "figures.json").write_text(json.dumps({"p50_ms": 10.0 + len(task["run"]), "p95_ms": 20.0}))
            return "complete", ""
        training = trials / recipe["name"]
        if not (training / "COMPLETE").exists() and not await self._train(task, training):
            return "halted", ""
        for kind in ("compress", "evaluate"):
            if task["after"][kind] is not None:
                await self._pause()
                complete(trials / f"{task['run']}.{kind}", kind, size_ratio=0.5, perplexity=7.0, seconds=1.0)
        return "complete", ""

    async def _train(self, task: Task, training: Path) -> bool:
        """Train on from the newest mark; returns whether it came to its end."""
        training.mkdir(parents=True, exist_ok=True)
        log = training / "metrics.jsonl"
        known = [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []
        first = max(known, default=0)
        if first and not await self.keeper.arrived(task["run"], first, None):
            return False
        for mark in [mark for mark in task["marks"] if mark > first]:
            await self._pause()
            self._count(training.name, mark - first)
            first = mark
            with log.open("a") as lines:
                line = {"kind": "validation", "step": mark, "loss": self.loss(task, mark)}
                lines.write(json.dumps(line) + "\n")
            if not await self.keeper.arrived(task["run"], mark, line):
                return False
        steps = task["recipe"]["stop"]["steps"]
        await self._pause()
        self._count(training.name, steps - first)
        complete(training, "finetune", validation_loss=self.loss(task, steps), seconds=36.0)
        return True

    def _count(self, training: str, steps: int) -> None:
        self.trained[training] = self.trained.get(training, 0) + steps


def quick(monkeypatch: Any) -> None:
    """Runs that wait at marks look as often as the played ones move."""
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.001)


def failures(folder: Path) -> dict[str, str]:
    """Run -> the reason that was remembered."""
    return {
        name.removesuffix(".json"): json.loads((folder / "failures" / name).read_text())["reason"]
        for name in Folder(folder / "failures").files()
    }
