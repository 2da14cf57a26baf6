"""What do clients of two replicas see when one of them, or its engine alone, is killed under load?

Half of the requests are streamed, half are not; the kill comes when a fifth of them are answered. `serve.py` calls this
and puts the figures into its row; alone, it makes a row of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import harness
import psutil
from endpoints import Server, endpoint, serve_recipe

from serving.bench.client import Client
from serving.bench.options import Options

REPLICAS, CLIENTS, TOKENS = 2, 8, 64
HUNG_SECONDS = 60.0  # an answer that takes longer has been forgotten by the endpoint
BACK_SECONDS = 240.0  # for a new replica, on any machine
TITLES = {"replica": re.compile(r"ray::ServeReplica:.*:Replica-"), "engine": re.compile(r"VLLM::EngineCore")}


@dataclass
class Answer:
    """What became of a request. Moments are of time.monotonic; `failed`: the kind of failure."""

    streamed: bool
    began: float
    ended: float
    failed: str | None


def main() -> None:
    with harness.bench("serve_faults", __doc__) as bench, tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as made:
        measure(bench, Path(made) / "faults")


def measure(bench: harness.Bench, folder: Path) -> None:
    """Put the figures of a killed replica and of a killed engine into the row."""
    requests = 500
    bench.settings["faults"] = {"replicas": REPLICAS, "clients": CLIENTS, "requests": requests, "new_tokens": TOKENS}
    replicas = {"min_replicas": REPLICAS, "max_replicas": REPLICAS}
    with endpoint(serve_recipe(folder, **replicas), folder) as server:
        wait_for_replicas(server)
        bench.alternate(
            {"untouched": lambda: summary(asyncio.run(load(server, requests, None)))}, repeats=1, label="faults"
        )
        for kind in TITLES:
            runs = bench.alternate({f"{kind} killed": lambda kind=kind: kill_one(server, kind, requests)}, repeats=1, label="faults")  # fmt: skip
            [run] = next(iter(runs.values()))
            if run.error is not None:
                raise RuntimeError(f"{kind} killed: {run.error}")
            bench.figure(f"failed_on_{kind}_kill", run.value("failed"), note="not streamed, and not answered")
            bench.figure(
                f"hung_on_{kind}_kill", run.value("hung"), note=f"no end after {HUNG_SECONDS:.0f} s, streams included"
            )
            bench.figure(
                f"silent_streams_on_{kind}_kill",
                run.value("silent"),
                note="ended with neither [DONE] nor an error event",
            )
            bench.figure(
                f"{kind}_kill_error_s", run.value("error_s"), "s", "from the kill to the last failure of any kind"
            )
            bench.figure(f"{kind}_kill_back_s", run.value("back_s"), "s", "until the other replica is there again")  # fmt: skip


def kill_one(server: Server, kind: str, requests: int) -> dict[str, Any]:
    """A load during which one process of a kind gets kill -9, and what it met."""
    victim = processes(server, kind)[0]
    killed: list[float] = []

    def kill() -> None:
        os.kill(victim, signal.SIGKILL)
        killed.append(time.monotonic())

    found = asyncio.run(load(server, requests, kill))
    wait_for_replicas(server, without=victim)
    back = time.monotonic() - killed[0]
    bad = [one.ended - killed[0] for one in found if one.failed]
    return {**summary(found), "error_s": max([0.0, *bad]), "back_s": back}


def summary(found: list[Answer]) -> dict[str, Any]:
    kinds = Counter(f"{'stream' if one.streamed else 'whole'}: {one.failed}" for one in found if one.failed)
    return {
        "requests": len(found),
        "failed": sum(one.failed is not None for one in found if not one.streamed),
        "hung": sum(one.failed == "timeout" for one in found),
        "silent": sum(one.failed in ("broken_stream", "broken_connection", "empty_answer") for one in found if one.streamed),
        "slowest_s": max(one.ended - one.began for one in found),
        "kinds": dict(kinds),
    }  # fmt: skip


async def load(server: Server, requests: int, kill: Any) -> list[Answer]:
    """Requests of CLIENTS that each wait for their answer; `kill` is called when a fifth of them are done."""
    found: list[Answer] = []
    waiting = iter(range(requests))
    options = Options(server.url, concurrency=CLIENTS, new_tokens=TOKENS, ignore_eos=True, api="completions", timeout=HUNG_SECONDS)  # fmt: skip

    async def client(streams: Client, session: aiohttp.ClientSession) -> None:
        for number in waiting:
            began = time.monotonic()
            if number % 2:
                failed = (await streams.ask(f"{number} def main(", 0.0)).error
            else:
                failed = await whole(session, streams.body(f"{number} def main(", TOKENS), server.url)
            found.append(Answer(bool(number % 2), began, time.monotonic(), failed))
            if kill is not None and len(found) == requests // 5:
                kill()

    timeout = aiohttp.ClientTimeout(total=HUNG_SECONDS)
    async with Client.connected(options) as streams, aiohttp.ClientSession(timeout=timeout) as session:
        await asyncio.gather(*(client(streams, session) for _ in range(CLIENTS)))
    return found


async def whole(session: aiohttp.ClientSession, body: dict[str, Any], url: str) -> str | None:
    """Ask for an answer in one piece: None, or the kind of its failure."""
    try:
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            told = await answer.json()
            if answer.status != 200:
                return f"http_{answer.status}"
            return None if told["usage"]["completion_tokens"] == TOKENS else "short_answer"
    except TimeoutError:
        return "timeout"
    except (aiohttp.ClientError, ConnectionError) as error:
        return type(error).__name__


def processes(server: Server, kind: str) -> list[int]:
    """The living processes of a kind below a server's, by their titles."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if TITLES[kind].match(" ".join(process.cmdline())) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for_replicas(server: Server, without: int | None = None) -> None:
    """Wait until all replicas tell their metrics and `without` is gone. Raises TimeoutError."""
    deadline = time.monotonic() + BACK_SECONDS
    while time.monotonic() < deadline:
        alive = [pid for kind in TITLES for pid in processes(server, kind)]
        if without not in alive and len(replicas_seen(server)) == REPLICAS and all(len(processes(server, kind)) == REPLICAS for kind in TITLES):  # fmt: skip
            return
        time.sleep(0.2)
    log = server.log.read_text(errors="replace")
    raise TimeoutError(f"not {REPLICAS} replicas after {BACK_SECONDS:g} s: {log[-1000:]}")


def replicas_seen(server: Server) -> set[str]:
    """Names of the replicas whose metrics the endpoint tells."""
    try:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
            return set(re.findall(r'manta_replica="([^"]+)"', answer.read().decode()))
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return set()


if __name__ == "__main__":
    main()
