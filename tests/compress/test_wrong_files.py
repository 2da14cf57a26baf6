"""Files that load and are wrong: one engine reads them otherwise than another, or both read them alike and not as the base."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manta import isolate
from manta.evaluate import agreement, engines, gate, recovery
from manta.sections.outcome import Gate

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]

Tensors = dict[str, Any]
RIGHT: Mapping[str, dict[str, Any]] = {
    "w8a8": {"scheme": "w8a8", "algorithm": "rtn"},
    "w4a16": {"scheme": "w4a16", "algorithm": "rtn", "group_size": 32},
}


def swapped_scales(tensors: Tensors) -> None:
    one, other = (f"model.layers.{number}.mlp.down_proj.weight_scale" for number in (0, 2))
    tensors[one], tensors[other] = tensors[other], tensors[one]


def transposed_pack(tensors: Tensors) -> None:
    name = "model.layers.1.self_attn.q_proj.weight_packed"
    tensors[name] = packed(unpacked(tensors[name]).T)


def groups_in_wrong_order(tensors: Tensors) -> None:
    """The last group's codes stand first, under the first one's scales."""
    name = "model.layers.1.mlp.down_proj.weight_packed"
    codes = unpacked(tensors[name])
    tensors[name] = packed(codes.reshape(len(codes), -1, 32).flip(1).reshape(codes.shape))


def unpacked(words: Any) -> Any:
    """(rows, columns / 8) int32 -> (rows, columns): eight codes a word, the lowest bits first."""
    import torch

    return torch.stack([(words >> (4 * place)) & 15 for place in range(8)], -1).reshape(len(words), -1)


def packed(codes: Any) -> Any:
    import torch

    parts = codes.reshape(len(codes), -1, 8).to(torch.int64)
    words = sum(parts[..., place] << (4 * place) for place in range(8))
    return (words - (words >= 2**31) * 2**32).to(torch.int32)


WRONG: Mapping[str, tuple[str, Callable[[Tensors], None]]] = {
    "swapped_scales": ("w8a8", swapped_scales),
    "transposed_pack": ("w4a16", transposed_pack),
    "groups_in_wrong_order": ("w4a16", groups_in_wrong_order),
}


@pytest.fixture(scope="module")
def folders(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base, two right files, and what was broken of them."""
    from safetensors.torch import load_file, save_file

    from manta.compress import quantise
    from manta.sections.quantise import Quantise

    root = tmp_path_factory.mktemp("files")
    found = {"base": trained.model, **{name: root / name for name in (*RIGHT, *WRONG)}}
    for name, settings in RIGHT.items():
        found[name].mkdir()
        quantise.apply(trained.model, found[name], Quantise.model_validate(settings), None, lambda *_: None)
    for name, (right, spoil) in WRONG.items():
        shutil.copytree(found[right], found[name])
        tensors = dict(load_file(found[name] / "model.safetensors"))
        spoil(tensors)
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(tensors, found[name] / "model.safetensors", metadata={"format": "pt"})
    return found


Logs = list[list[float]]


def asked(engine: str, dtype: str, folder: Path, rows: list[list[int]]) -> Logs:
    return engines.load(engine, folder, dtype, max(map(len, rows))).logs(rows)


@pytest.fixture(scope="module")
def logs(trained: Trained, folders: dict[str, Path]) -> dict[str, dict[str, Logs]]:
    """Engine -> file -> what it says of the same rows."""
    from manta.data.sample import sample_documents
    from manta.storage import Folder

    rows = sample_documents(Folder(trained.shards), "validation", 8, 0)
    calls = [isolate.Call(asked, ("vllm", "bfloat16", folder, rows), cpus=1) for folder in folders.values()]
    served = isolate.run(calls, "reading the files")
    read = [asked("transformers", "float32", folder, rows) for folder in folders.values()]
    return {
        "vllm": dict(zip(folders, served, strict=True)),
        "transformers": dict(zip(folders, read, strict=True)),
    }


def judged(logs: dict[str, dict[str, Logs]], served: str, reference: str) -> dict[str, Any]:
    """The figures of a model of which vLLM says what the file `served` holds, and Transformers what `reference` does."""
    sides: list[dict[str, Any]] = []
    for ours, theirs in ((served, reference), ("base", "base")):
        read = {"served": logs["vllm"][ours], "reference": logs["transformers"][theirs]}
        sides.append({**agreement.gaps(**read), "read": read})
    model, base = sides
    drift = recovery.drift(recovery.drift_rows(model["read"]["served"], base["read"]["served"]))
    return {
        **{name: model[name] for name in ("engine_gap", "token_gap")},
        "token_gap_explained": agreement.explained(model, base),
        "token_drift": drift,
    }


@pytest.mark.parametrize("name", ["base", "w8a8", "w4a16"])
def test_right_files_are_read_alike(name: str, logs: dict[str, dict[str, Logs]]) -> None:
    found = judged(logs, name, name)
    assert gate.missed(Gate(), found) == []
    assert 0 < found["token_gap"] < 0.75 * found["token_gap_explained"], "with room"


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("wrong_engine", ["vllm", "transformers"])
def test_an_engine_that_reads_a_file_otherwise_is_caught(
    name: str, wrong_engine: str, logs: dict[str, dict[str, Logs]]
) -> None:
    """As if one engine took the right file for the wrong one."""
    right = WRONG[name][0]
    found = judged(logs, name, right) if wrong_engine == "vllm" else judged(logs, right, name)
    [miss] = gate.missed(Gate(), found)
    assert "log-probability differs" in miss
    assert found["engine_gap"] < 0.05, "perplexity alone would have let it pass"


@pytest.mark.parametrize("name", WRONG)
def test_files_that_both_read_wrongly_lie_far_from_the_base(name: str, logs: dict[str, dict[str, Logs]]) -> None:
    found, right = judged(logs, name, name), judged(logs, WRONG[name][0], WRONG[name][0])
    assert gate.missed(Gate(), found) == [], "the engines agree"
    demanding = Gate(token_drift=2 * right["token_drift"])
    assert gate.missed(demanding, right) == []
    [miss] = gate.missed(demanding, found)
    assert miss.startswith("token_drift is ")
