"""How much does the endpoint cost over bare vLLM, and what do clients see when a replica is killed?

Both servers run the same model with the same engine arguments at the same time; load goes to one and then the other. CPU
is that of the server's whole process tree (for the endpoint: all of Ray), without the client's. Kills: see serve_faults.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import harness
import serve_faults
from endpoints import bare, endpoint, serve_recipe
from serve_load import TOKENS, Load

PAIRED = "endpoint - vllm, run by run; c=8"


def main() -> None:
    with harness.bench("serve", __doc__) as bench, tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as scratch:
        folder = Path(scratch)
        # concurrency -> requests of one run
        levels = {1: 8, 8: 64, 32: 256} if bench.quick else {1: 32, 8: 256, 32: 512}
        bench.settings.update(model="llama-7m", new_tokens=TOKENS, requests={str(k): v for k, v in levels.items()})
        recipe = serve_recipe(folder)
        with endpoint(recipe, folder) as manta, bare(recipe, folder) as vllm:
            bench.figure(
                "ready_extra_seconds",
                manta.ready_seconds - vllm.ready_seconds,
                "s",
                "endpoint - vllm, started one after the other",
            )
            for level, requests in levels.items():
                runs = bench.alternate(
                    {"manta": Load(manta, level, requests), "vllm": Load(vllm, level, requests)},
                    repeats=3 if bench.quick else 7,
                    warmup=1,
                    label=f"c={level}",
                )
                bench.ratio(f"throughput_vs_vllm_{level}", runs, of="manta", over="vllm", key="tokens_per_s")
                if level == 8:
                    compare_at_eight(bench, runs)
        serve_faults.measure(bench, folder / "faults")


def compare_at_eight(bench: harness.Bench, runs: Mapping[str, Sequence[harness.Run]]) -> None:
    """Delays and CPU where eight clients ask."""
    note = "smaller is better; c=8"
    bench.ratio("cpu_vs_vllm", runs, of="manta", over="vllm", key="cpu_ms_per_request", note=note)
    bench.ratio("itl_p99_vs_vllm", runs, of="manta", over="vllm", key="between_tokens_p99_ms", note=note)
    pairs = [(a, b) for a, b in zip(runs["manta"], runs["vllm"], strict=True) if not (a.error or b.error)]
    for figure, key in (("ttft_p50_extra_ms", "first_token_ms"), ("ttft_p99_extra_ms", "first_token_p99_ms")):
        bench.figure(figure, [a.value(key) - b.value(key) for a, b in pairs], "ms", PAIRED)


if __name__ == "__main__":
    main()
