"""Preparing on several Ray nodes, one of which dies: the same documents, the same bytes as on one machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manta import cluster, stage
from manta import recipe as recipes
from manta.artifact import Artifact
from manta.data import exchange
from manta.data.spread import spread
from manta.progress import Progress

pytestmark = pytest.mark.integration

STEPS = [
    {"step": "normalise"},
    {"step": "exact_dedup"},
    {"step": "near_dedup"},
    {"step": "line_dedup", "max_documents": 2},
]


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A cluster of a head without CPUs and two nodes of one CPU each, all of them processes of this machine."""
    cluster.disconnect()
    for key, value in cluster.ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)  # Ray's nodes set one of their own
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    cluster.disconnect()
    made.shutdown()
    signal.signal(signal.SIGTERM, before)


def prepare(corpus: Path, output: Path, progress: Progress, address: str | None = None) -> Artifact:
    raw = {
        "kind": "prepare",
        "name": "shards",
        "output": str(output),
        "data": {
            "sources": [
                {"path": f"{corpus}/*.jsonl", "format": "jsonl"},
                {"path": "python://stdlib/[a-m]*.py", "format": "docstrings"},
            ],
            "steps": STEPS,
            "validation_fraction": 0.1,
            "seq_len": 64,
            "shard_tokens": 20_000,
        },
        "tokenizer": {"vocab_size": 1024},
        "resources": {"cpus": 2, "address": address},
    }
    return stage.run(recipes.validate(raw), progress).artifact


def node(_: dict[str, Any]) -> dict[str, Any]:
    import ray

    return {"node": ray.get_runtime_context().get_node_id()}


class Killing(Progress):
    """Ends a node, without warning, when the first unit of the named work is done."""

    def __init__(self, unit: str, kill: Any):
        super().__init__(quiet=True)
        self.unit, self.kill, self.killed = unit, kill, False

    def update(self, done: float, total: float, unit: str, **figures: Any) -> None:
        if unit == self.unit and not self.killed:
            self.killed = True
            self.kill()


def shards(made: Artifact) -> dict[str, bytes]:
    root = Path(made.folder.url)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("train", "validation", "documents", "tokenizer")
        for path in sorted((root / folder).iterdir())
    }


def test_nodes_share_the_work_and_one_may_die(
    nodes: Any, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", 10_000)  # several tasks of near_dedup, as of a large corpus
    cluster.connect(nodes.address)
    assert not cluster.is_local()
    assert len({item["node"] for item in spread(node, [{}] * 8, 2)}) == 2, "both nodes work"
    progress = Killing("parts signed", lambda: nodes.remove_node(nodes.workers[1], allow_graceful=False))
    together = prepare(tiny_corpus, tmp_path / "nodes", progress, nodes.address)
    assert progress.killed
    cluster.disconnect()
    alone = prepare(tiny_corpus, tmp_path / "alone", Progress(quiet=True))
    assert together.metrics["dropped"] == alone.metrics["dropped"]
    assert together.metrics["dropped"]["exact_dedup"] >= 20
    assert shards(together) == shards(alone)
