"""The promise of `resources`, through real Ray Train: however work is spread and interrupted, the loss curve is one.

To the bit where the number of workers stays the same, else within ROUNDING of the run of one worker that nobody
disturbed. Minutes long: `make drill`.
"""

from __future__ import annotations

import _thread
import json
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import artifact, cluster, stage
from manta import recipe as recipes
from manta.data import tokenizer
from manta.data.shards import Index, save_index, write_shard
from manta.progress import Progress
from manta.storage import Folder
from manta.train import checkpoint, drill
from manta.train.metrics import read

pytestmark = [pytest.mark.integration, pytest.mark.slow]
VOCAB, SEQ, ROWS, STEPS, SHORT = 300, 32, 24, 200, 60
ROUNDING = 1e-5  # relative; what was measured is in docs/log.md


@pytest.fixture(scope="module")
def room_for_three() -> Iterator[None]:
    """A Ray on this machine with a CPU for each of three workers, whether it has them or not."""
    cluster.connect(minimum_cpus=3)
    yield
    cluster.disconnect()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared rows, each of which counts upwards by a number of its own, a tenth of the tokens at random."""
    output = tmp_path_factory.mktemp("runs")
    folder, draw = Folder(output / "shards"), np.random.default_rng(0)
    rows = (draw.integers(0, 200, (2000, 1)) + draw.integers(1, 4, (2000, 1)) * np.arange(SEQ)) % 200 + 50
    rows = np.where(draw.random(rows.shape) < 0.1, draw.integers(50, 250, rows.shape), rows).astype(np.int32)
    splits = {
        "train": (write_shard(folder, "train/00000.parquet", {"input_ids": rows[:1900]}),),
        "validation": (write_shard(folder, "validation/00000.parquet", {"input_ids": rows[1900:]}),),
    }
    save_index(folder, Index(SEQ, VOCAB, 0, 0, 2, splits))
    (output / "shards/tokenizer").mkdir()
    tokenizer.train(iter(["a"]), VOCAB, output / "shards/tokenizer")
    prints = {"fingerprint": "e" * 64, "content": "d" * 64}
    made = {"kind": "prepare", "name": "shards", "inputs": {}, "metrics": {}, **prints}
    folder.write_text(artifact.MANIFEST, json.dumps(made))
    folder.write_text(artifact.COMPLETE, "")
    return f"{output}/shards"


def recipe(shards: str, output: Path | str, steps: int, **resources: Any) -> recipes.Recipe:
    """The same run at any place, on any resources."""
    made = recipes.validate(
        {
            "kind": "pretrain",
            "name": "base",
            "output": str(output),
            "data": {"shards": shards},
            "model": {"preset": "llama-tiny", "num_layers": 1},
            "optimizer": {"lr": 3.0e-3, "precision": "fp32"},
            "batch": {"samples": ROWS},
            "stop": {"steps": steps},
            "checkpoint": {"every_steps": 20, "keep": 1},
            "evaluate": {"every_steps": 50, "max_rows": 50},
            "resources": {"micro_batch": 4, **resources},
        }
    )
    assert isinstance(made, recipes.Recipe)
    return made


def run(wanted: recipes.Recipe) -> artifact.Artifact:
    return stage.run(wanted, Progress(quiet=True)).artifact


def interrupt(wanted: recipes.Recipe, at: int) -> int:
    """Run until at least the step `at`, then press Ctrl-C. Returns the step at which the run stands."""
    folder, ended = Folder(f"{wanted.output}/base"), threading.Event()

    def press() -> None:
        while not ended.is_set():
            if any(line["step"] >= at for line in read(folder)):
                _thread.interrupt_main()
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=press)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(wanted)
    finally:
        ended.set()
        watcher.join()
    return checkpoint.newest_step(folder.url)


@pytest.fixture(scope="module")
def alone(shards: str, tmp_path_factory: pytest.TempPathFactory, room_for_three: None) -> dict[tuple[str, int], float]:
    """The curve of one worker that nothing disturbs."""
    found = drill.curve(run(recipe(shards, tmp_path_factory.mktemp("alone"), STEPS)).folder)
    losses = [found["train", step] for step in range(1, STEPS + 1)]
    assert losses[0] == pytest.approx(np.log(VOCAB), rel=0.03)
    assert losses[-1] < 0.6 * losses[0]  # a curve that goes nowhere would be easy to repeat
    return found


def check_within_rounding(found: dict[tuple[str, int], float], alone: dict[tuple[str, int], float]) -> None:
    assert found.keys() == alone.keys()
    largest = max(abs(found[key] - alone[key]) / alone[key] for key in alone)
    print(f"largest relative difference {largest:.3g}")
    assert largest < ROUNDING


@pytest.mark.parametrize("stage_of_zero", [0, 1, 2, 3])
def test_a_killed_worker_changes_no_bit(stage_of_zero: int, shards: str, tmp_path: Path, room_for_three: None) -> None:
    whole = run(recipe(shards, tmp_path, SHORT, workers=2, zero_stage=stage_of_zero))
    found = drill.drill(whole.folder.url, kills=1, progress=Progress(quiet=True))
    assert found["identical"]
    assert found["compared"] == SHORT + 2  # the steps, and the validations of steps 50 and 60
    assert len(found["kills"]) == 1


@pytest.mark.parametrize(
    ("workers", "stage_of_zero"),
    [((2, 1), 1), ((1, 2), 2), ((2, 3, 1), 3), ((2, 1), 0)],
    ids=["2-1", "1-2", "2-3-1", "2-1 without ZeRO"],
)
def test_other_workers_carry_on_the_same_curve(
    workers: tuple[int, ...],
    stage_of_zero: int,
    shards: str,
    alone: dict[tuple[str, int], float],
    tmp_path: Path,
) -> None:
    stops = [0]
    for number, count in enumerate(workers[:-1]):
        at = STEPS * (number + 1) // (len(workers) + 1)
        stops.append(interrupt(recipe(shards, tmp_path, STEPS, workers=count, zero_stage=stage_of_zero), at))
        assert at <= stops[-1] < STEPS
    made = run(recipe(shards, tmp_path, STEPS, workers=workers[-1], zero_stage=stage_of_zero))
    assert made.metrics["resumed_from_step"] == stops[-1]
    assert all(former < later for former, later in pairwise(stops))
    check_within_rounding(drill.curve(made.folder), alone)


@pytest.mark.parametrize(
    "resources", [{"micro_batch": ROWS}, {"micro_batch": ROWS // 8}, {"activation_checkpointing": True}]
)
def test_the_size_of_a_forward_pass_changes_nothing(
    resources: dict[str, Any], shards: str, alone: dict[tuple[str, int], float], tmp_path: Path
) -> None:
    """One forward pass a step, or eight that are accumulated, or layers that are computed twice."""
    check_within_rounding(drill.curve(run(recipe(shards, tmp_path, STEPS, **resources)).folder), alone)
