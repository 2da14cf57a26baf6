"""How much quicker is a compressed directory than its base? Both in vLLM, in turns, one thread each; called by compress.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import harness

from manta import recipe, stage
from manta.progress import Progress

BATCHES = (1, 16)


def speeds(name: str, model: Path, base: Path, rounds: int = 5, dtype: str = "bfloat16") -> dict[str, list[float]]:
    """Of each batch size the model's rate over its base's, one number a round, from `manta evaluate` with evaluate.speed.

    `cpu_speedup_B` is by tokens per CPU second, which a shared machine disturbs little; `speedup_B` is by the clock on the
    wall. Rates are of the tokens after the first; `prefill_cpu_speedup` is of reading at the largest batch. Ray is started
    where it does not run yet: call `manta.cluster.disconnect` at the end.
    """
    from manta.evaluate import speed
    from manta.schema import EvaluateRecipe

    output = harness.SCRATCH / "compress_speed"
    shutil.rmtree(output / name, ignore_errors=True)
    settings = {"batches": [*BATCHES], "prompt_tokens": 128, "new_tokens": 48, "rounds": rounds, "cpus": 1}
    wanted = recipe.validate(
        {
            "kind": "evaluate",
            "name": name,
            "output": str(output),
            "model": {"source": str(model), "base": str(base)},
            "data": {},
            "evaluate": {"engine": "vllm", "dtype": dtype, "perplexity_rows": 0, "speed": settings},
            "resources": {"cpus": 1},
        }
    )
    assert isinstance(wanted, EvaluateRecipe)
    assert wanted.evaluate.speed is not None
    made = stage.run(wanted, Progress(quiet=True)).artifact
    turns = speed.read(json.loads(made.folder.read_text("scores.json"))["speed"]["turns"])
    found = speed.speedups(turns["model"], turns["base"], wanted.evaluate.speed)
    found["prefill_cpu_speedup"] = [
        theirs[str(max(BATCHES))]["first"].cpu / mine[str(max(BATCHES))]["first"].cpu
        for mine, theirs in zip(turns["model"], turns["base"], strict=True)
    ]
    return found


def add(bench: Any, label: str, found: dict[str, list[float]]) -> None:
    """Put `label`_speed_B (by CPU seconds) and `label`_wall_speed_B into a benchmark's row, round by round."""
    for batch in BATCHES:
        said = f"tokens per CPU second at batch {batch} over the base's, one thread, in turns"
        bench.figure(f"{label}_speed_{batch}", found[f"cpu_speedup_{batch}"], "x", said)
        bench.figure(
            f"{label}_wall_speed_{batch}", found[f"speedup_{batch}"], "x", f"the same by wall time, batch {batch}"
        )
