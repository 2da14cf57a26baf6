"""What a run survives beside a killed worker: one that hangs, SIGTERM, a full disk, a node that leaves. The curve stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import artifact, cluster
from manta.errors import StageFailed
from manta.progress import Progress
from manta.storage import Folder
from manta.train import checkpoint, drill
from manta.train.metrics import read
from tests.train.counting import STEPS, raw_recipe, run, write_shards

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> artifact.Artifact:
    """The undisturbed run, on two workers."""
    output = tmp_path_factory.mktemp("runs")
    write_shards(output)
    return run(raw_recipe(str(output)))


def shards_beside(base: artifact.Artifact, output: Path) -> str:
    assert base.folder.local_path is not None
    shutil.copytree(base.folder.local_path.parent / "shards", output / "shards")
    return str(output)


def saved(folder: Folder) -> list[int]:
    """The steps whose checkpoints metrics.jsonl knows of."""
    return [line["step"] for line in read(folder) if line["kind"] == "checkpoint"]


def test_each_checkpoint_has_its_line(base: artifact.Artifact) -> None:
    assert saved(base.folder) == [10, 20, 30, 40, 50, 60]
    lines = [line for line in read(base.folder) if line["kind"] == "checkpoint"]
    parts = (base.folder.local_path or Path()) / checkpoint.PARENT / checkpoint.name_of(STEPS)
    stored = sum(path.stat().st_size for path in parts.glob("*.pt"))
    assert lines[-1]["bytes"] == stored and len(list(parts.glob("*.pt"))) == 3  # the weights, two optimizer states
    assert all(line["stall_s"] > 0 and line["write_s"] > 0 for line in lines)


def test_a_worker_that_hangs_is_noticed_and_replaced(base: artifact.Artifact) -> None:
    result = drill.drill(base.folder.url, kills=0, progress=Progress(quiet=True), hangs=1)
    assert result["identical"] and len(result["hangs"]) == 1 and result["kills"] == []
    assert [name for name, _ in result["stacks"]] == ["rank-0.txt", "rank-1.txt"]
    heads = [text for _, text in result["stacks"]]
    assert sum("hangs: " in text for text in heads) == 1, "one rank noticed"
    assert sum("did not answer" in text for text in heads) == 1, "a stopped process cannot"


@pytest.mark.slow
def test_sigterm_saves_first(
    base: artifact.Artifact, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    raw = raw_recipe(shards_beside(base, tmp_path))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))
    process = manta_cli.start("pretrain", tmp_path / "recipe.yaml")
    folder = Folder(tmp_path / "base")
    wait_until(lambda: process.poll() is not None or len(read(folder)) > 2, seconds=600, what="no steps are trained")
    process.send_signal(signal.SIGTERM)  # to the driver alone, as `kill` and `ray job stop` do
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    at = checkpoint.newest_step(folder.url)
    assert at >= 2 and [line["step"] for line in read(folder) if line["kind"] == "train"][-1] == at
    again = run(raw)
    assert again.metrics["resumed_from_step"] == at
    assert drill.curve(again.folder) == drill.curve(base.folder)
    assert saved(again.folder) == sorted({at, 10, 20, 30, 40, 50, 60})


# --- a full disk -----------------------------------------------------------------------------------------------------

SMALL = """
mount -t tmpfs -o size={size} none {place} && cp -r {shards} {place}/shards && head -c {filler} /dev/zero > {place}/filler
exec {python} -m manta.cli pretrain {recipe}
"""


def can_mount(folder: Path) -> bool:
    """Whether a user may mount in a namespace of her own."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    return (
        shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def test_a_full_disk_makes_training_wait(
    base: artifact.Artifact, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """A real one, of a few megabytes, in a mount namespace of its own."""
    place, recipe = tmp_path / "disk", tmp_path / "recipe.yaml"
    place.mkdir()
    if not can_mount(place):
        pytest.skip("this machine lets nobody mount in a namespace of their own")
    recipe.write_text(yaml.safe_dump(raw_recipe(str(place))))
    newest = checkpoint.newest(base.folder)
    assert newest is not None
    needed, size = int(newest.figures["bytes"]), 40 * 2**20
    script = SMALL.format(
        size=size,
        place=place,
        shards=(base.folder.local_path or Path()).parent / "shards",
        filler=size - needed // 2 - 2**19,
        python=sys.executable,
        recipe=recipe,
    )
    said = tmp_path / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", script], stdout=file, stderr=file, start_new_session=True
        )
    try:
        waits = "training waits at step 20 until the checkpoint before it is written"
        wait_until(
            lambda: process.poll() is not None or waits in said.read_text(), seconds=600, what="it does not wait"
        )
        assert "the checkpoint of step 10 could not be written" in said.read_text()
        seen = Path(f"/proc/{process.pid}/root{place}")
        assert checkpoint.newest(Folder(seen / "base")) is None
        time.sleep(2)
        assert [line["step"] for line in read(Folder(seen / "base")) if line["kind"] == "train"][-1] == 20, "it waits"
        (seen / "filler").unlink()
        curve: dict[Any, Any] = {}
        while process.poll() is None:
            if (seen / "base/COMPLETE").exists():
                curve = drill.curve(Folder(seen / "base"))
            time.sleep(0.1)
        assert process.returncode == 0, said.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert curve == drill.curve(base.folder)
    told = said.read_text()
    assert told.count("could not be written") == 1 and "No space left on device" in told
    assert "MB are needed, " in told and "MB are free)" in told
    assert "the checkpoint is written: training goes on" in told


@pytest.mark.slow
def test_what_no_waiting_mends_ends_the_run(
    base: artifact.Artifact, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """All ranks end at the same step with the reason, and nobody restarts them: that would only repeat it."""

    raw = raw_recipe(shards_beside(base, tmp_path))
    raw["checkpoint"]["every_steps"] = 50
    checkpoints = tmp_path / "base/checkpoints"

    def stand_in_the_way() -> None:
        wait_until(checkpoints.is_dir, seconds=600, what="training does not begin")
        (checkpoints / "step-00000050").touch()  # a file where the folder should be

    threading.Thread(target=stand_in_the_way, daemon=True).start()
    with pytest.raises(StageFailed, match=r"the checkpoint of step 50 cannot be written to .* carries on"):
        run(raw)
    assert checkpoint.newest_step(f"{tmp_path}/base") == 0


# --- a node that leaves ----------------------------------------------------------------------------------------------


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster of a head without CPUs and two nodes, all of them processes of this machine."""
    cluster.disconnect()
    for key, value in cluster.ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.workers = [made.add_node(num_cpus=4) for _ in range(2)]
    yield made
    cluster.disconnect()
    made.shutdown()


class Draining(Progress):
    """Tells the node that the workers are on, once, after `step` steps, that it will be taken away in a minute."""

    def __init__(self, nodes: Any, step: int):
        super().__init__(quiet=True)
        self.nodes, self.step, self.drained = nodes, step, ""
        self.notes: list[str] = []

    def note(self, text: str, **fields: Any) -> None:
        self.notes.append(text)

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        if unit == "steps" and done >= self.step and not self.drained:
            from ray._private.state import available_resources_per_node
            from ray.core.generated import autoscaler_pb2

            free = {node: found.get("CPU", 0) for node, found in available_resources_per_node().items()}
            (node,) = [node for node in self.nodes.workers if free[node.node_id] <= 2]  # two of four are at work
            self.drained = node.node_id
            reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
            deadline = int((time.time() + 60) * 1000)
            accepted, why = node.get_gcs_client().drain_node(node.node_id, reason, "a test", deadline)
            assert accepted, why


@pytest.mark.slow
def test_a_node_that_leaves_is_left_in_time(base: artifact.Artifact, nodes: Any, tmp_path: Path) -> None:
    cluster.connect(nodes.address)
    progress = Draining(nodes, 12)
    made = run(raw_recipe(shards_beside(base, tmp_path), address=nodes.address, max_restarts=0), progress)
    assert progress.drained
    (told,) = [note for note in progress.notes if "is about to leave" in note]
    at = made.metrics["resumed_from_step"]
    assert f"saved at step {at}" in told and at >= 12
    assert drill.curve(made.folder) == drill.curve(base.folder)
