"""The copy that a checkpoint is written from: what torch would have saved at that moment, in memory that is used again."""

from __future__ import annotations

import errno
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from manta.train.snapshot import Snapshot


def take(state: Any, snapshot: Snapshot | None = None) -> Snapshot:
    snapshot = snapshot or Snapshot()
    snapshot.begin("./step-1")
    snapshot.save(state, "./step-1/states.pt")
    snapshot.end()
    return snapshot


def written(snapshot: Snapshot, folder: Path) -> Any:
    ((name, size),) = snapshot.write(folder)
    assert name == "states.pt" and size == (folder / name).stat().st_size
    return torch.load(folder / name, weights_only=False)


def test_later_steps_do_not_reach_it(tmp_path: Path) -> None:
    weight, steps, names = torch.arange(6.0).reshape(2, 3), {"step": 4}, ["a"]
    snapshot = take({"module": OrderedDict(weight=weight), "counters": steps, "names": names})
    weight += 100
    steps["step"] = 5
    names.append("b")
    found = written(snapshot, tmp_path)
    assert torch.equal(found["module"]["weight"], torch.arange(6.0).reshape(2, 3))
    assert isinstance(found["module"], OrderedDict) and found["counters"] == {"step": 4} and found["names"] == ["a"]


def test_all_kinds_of_content_come_back(tmp_path: Path) -> None:
    flat = torch.arange(10, dtype=torch.bfloat16)
    state = {
        "shape": torch.Size([2, 5]),  # DeepSpeed asks it for numel()
        "view": flat[2:6].view(2, 2),
        "across": torch.arange(6).reshape(2, 3).t(),
        "none": torch.empty(0, 3),
        "one": torch.tensor(7.0),
        "dtype": torch.float32,
        "tuple": (torch.ones(2), [None, 1.5]),
        "parameter": torch.nn.Parameter(torch.full((3,), 2.0)),
    }
    found = written(take(state), tmp_path)
    assert type(found["shape"]) is torch.Size and found["shape"].numel() == 10 and found["dtype"] is torch.float32
    for name in ("view", "across", "none", "one", "parameter"):
        assert torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype, name
    assert torch.equal(found["tuple"][0], torch.ones(2)) and found["tuple"][1] == [None, 1.5]
    assert found["view"].untyped_storage().nbytes() == 4 * 2, "a view brings its own numbers alone"


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    table = torch.randn(1000, 10)
    snapshot = take({"embedding": table, "head": table.view(1000, 10), "other": table.clone()})
    assert snapshot.bytes == 2 * 40_000
    found = written(snapshot, tmp_path)
    assert found["embedding"].data_ptr() == found["head"].data_ptr() != found["other"].data_ptr()
    assert (tmp_path / "states.pt").stat().st_size < 90_000


def test_memory_is_used_again(tmp_path: Path) -> None:
    weight = torch.zeros(100)
    snapshot = take({"weight": weight})
    before = snapshot._files["states.pt"].tensors[0].data_ptr()
    weight += 1
    take({"weight": weight, "new": torch.ones(3)}, snapshot)
    assert snapshot._files["states.pt"].tensors[0].data_ptr() == before
    found = written(snapshot, tmp_path)
    assert torch.equal(found["weight"], torch.ones(100)) and torch.equal(found["new"], torch.ones(3))
    take({"weight": torch.ones(7, dtype=torch.float64)}, snapshot)  # of another shape: another buffer
    assert torch.equal(written(snapshot, tmp_path)["weight"], torch.ones(7, dtype=torch.float64))


def test_a_full_disk_is_told_by_its_own_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "states.pt").symlink_to("/dev/full")  # every write there finds no room
    with pytest.raises(OSError, match="No space left") as caught:
        list(take({"weight": torch.ones(1000)}).write(tmp_path))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_one_that_other_tools_open(tmp_path: Path) -> None:
    written(take({"weight": torch.ones(1000)}), tmp_path)
    with zipfile.ZipFile(tmp_path / "states.pt") as archive:
        assert archive.testzip() is None
