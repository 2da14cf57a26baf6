"""How far are the hours that `manta plan RECIPE --measure` names from what training takes?

A Llama is planned by a few measured steps and then trained through the front door, round by round, so that both see the
machine in the same mood: one worker and two, with validations and checkpoints on the way. Compared are the plan's hours with
the seconds of the run's manifest, from the first step to the last; the start of processes is in neither.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import train

from manta import cluster, plan, recipe, stage
from manta.progress import Progress


@dataclass(frozen=True)
class Case:
    """One training run."""

    preset: str
    rows: int  # of the global batch
    workers: int
    zero_stage: int
    steps: int

    @property
    def label(self) -> str:
        return f"{self.preset} {self.rows} rows, {self.workers} workers, zero {self.zero_stage}, {self.steps} steps"


QUICK = (Case("llama-7m", 8, 1, 0, 60),)
FULL = (Case("llama-7m", 8, 1, 0, 150), Case("llama-7m", 8, 2, 1, 150), Case("llama-30m", 4, 1, 1, 100))


def main() -> None:
    with harness.bench("plan_hours", __doc__) as bench:
        shards = train.prepared(bench)
        errors = []
        try:
            for case in QUICK if bench.quick else FULL:
                bench.settings[case.label] = asdict(case)
                runs = bench.alternate({"planned and trained": _Both(shards, case)}, repeats=1, label=case.label)
                for run in runs["planned and trained"]:
                    if run.error:
                        continue
                    planned, trained = run.value("planned_s"), run.value("trained_s")
                    bench.say(f"  {case.label}: planned {planned:.0f} s, trained in {trained:.0f} s")
                    errors.append(abs(planned / trained - 1.0))
        finally:
            cluster.disconnect()
        bench.figure(
            "plan_hours_error", [max(errors)] if errors else [], note="largest of the cases: |planned / trained - 1|"
        )


@dataclass(frozen=True)
class _Both:
    shards: Path
    case: Case

    def __call__(self) -> dict[str, Any]:
        output = self.shards.parent / "runs"
        shutil.rmtree(output, ignore_errors=True)
        wanted: Any = recipe.validate(_recipe(self.shards, output, self.case), origin="benchmarks/plan_hours.py")
        planned = plan.plan(wanted, plan.Given(measure=True))
        done = stage.run(wanted, Progress(quiet=True))
        return {"planned_s": planned["hours"] * 3600, "trained_s": done.artifact.metrics["seconds"]}


def _recipe(shards: Path, output: Path, case: Case) -> dict[str, Any]:
    return {
        "kind": "pretrain",
        "name": "base",
        "output": str(output),
        "data": {"shards": str(shards)},
        "model": {"preset": case.preset},
        "optimizer": {"precision": "fp32", "lr": 1.0e-3},
        "batch": {"samples": case.rows},
        "stop": {"steps": case.steps},
        "checkpoint": {"every_steps": case.steps // 3},
        "evaluate": {"every_steps": case.steps // 3, "max_rows": 32},
        "resources": {
            "workers": case.workers,
            "cpus_per_worker": train.CORES // case.workers,
            "micro_batch": case.rows // case.workers,
            "zero_stage": case.zero_stage,
        },
    }


if __name__ == "__main__":
    main()
