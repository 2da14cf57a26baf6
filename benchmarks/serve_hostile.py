"""What is left for legitimate clients while a thousand others send wrong keys, 10 MB bodies, endless headers, and leave streams?

The same load runs with and without the crowd of serve_crowd.py, in turn; memory is that of the server's whole process tree.
The crowd is on the same machine and takes a part of it whoever it asks: a third run has it ask serve_sink.py instead, beside
the load. What is lost to that is not the endpoint's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from endpoints import Server, endpoint, serve_recipe
from serve_crowd import CLIENTS, PAUSE_SECONDS
from serve_load import TOKENS, Load

from serving.door import keys

CLIENTS_AT_WORK = 8
CROWD_SECONDS = 180.0  # more than any run; a crowd ends with the run that it was called for
REQUESTS_PER_MINUTE = 60  # of the key that the crowd knows


def main() -> None:
    with (
        harness.bench("serve_hostile", __doc__) as bench,
        tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as made,
    ):
        folder = Path(made)
        requests = 64 if bench.quick else 256
        bench.settings.update(
            model="llama-7m", new_tokens=TOKENS, requests=requests, clients=CLIENTS_AT_WORK, crowd=CLIENTS, pause_s=PAUSE_SECONDS
        )  # fmt: skip
        file = str(folder / "keys")
        key = keys.create(file, "honest")[1]
        known = keys.create(file, "crowd", requests_per_minute=REQUESTS_PER_MINUTE)[1]
        with endpoint(serve_recipe(folder, keys_file=file), folder, key) as server:
            load = Load(server, CLIENTS_AT_WORK, requests)
            runs = bench.alternate(
                {
                    "alone": load,
                    "with the crowd": lambda: beside_the_crowd(load, server, server.url, known),
                    "crowd elsewhere": lambda: beside_a_crowd_elsewhere(load, server, known),
                },
                repeats=3 if bench.quick else 7,
                warmup=1,
            )
            bench.ratio("hostile_throughput_share", runs, of="with the crowd", over="alone", key="tokens_per_s")
            bench.ratio(
                "hostile_throughput_share_endpoint",
                runs,
                of="with the crowd",
                over="crowd elsewhere",
                key="tokens_per_s",
            )
            pairs = [
                (b, a) for b, a in zip(runs["with the crowd"], runs["alone"], strict=True) if not (a.error or b.error)
            ]
            extra = [b.value("first_token_ms") - a.value("first_token_ms") for b, a in pairs]
            bench.figure("hostile_ttft_extra_ms", extra, "ms", "median first token: with the crowd - alone")
            tries = [b.value("tries") / b.wall_s for b, _ in pairs]
            bench.figure("hostile_tries_per_s", tries, "/s", "what the crowd did, for what the share is worth")
            held = [b.value("memory_bytes") for b, _ in pairs]
            growth = [held[-1] / held[0]] if held else []
            bench.figure("hostile_memory_growth", growth, "x", "the endpoint after the last crowd over after the first counted one")  # fmt: skip


def beside_a_crowd_elsewhere(load: Load, server: Server, key: str) -> dict[str, Any]:
    """The same while the crowd asks a server that only turns it away."""
    command = [sys.executable, str(Path(__file__).with_name("serve_sink.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout is not None
        try:
            port = int(sink.stdout.readline())
            return beside_the_crowd(load, server, f"http://127.0.0.1:{port}", key)
        finally:
            sink.terminate()


def beside_the_crowd(load: Load, server: Server, url: str, key: str) -> dict[str, Any]:
    """The load while a crowd asks `url`; then what the crowd met, and what the endpoint holds when it has gone."""
    command = [sys.executable, str(Path(__file__).with_name("serve_crowd.py")), url, key, str(CROWD_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdout is not None
        try:
            if crowd.stdout.readline().strip() != "ready":
                raise RuntimeError("the crowd did not come together")
            figures = load()
        finally:
            crowd.terminate()
        met = json.loads(crowd.stdout.read().strip().splitlines()[-1])
    with harness.measure([server.process.pid]) as window:
        pass
    return {**figures, "met": met, "tries": sum(met.values()), "memory_bytes": window.peak_bytes}


if __name__ == "__main__":
    main()
