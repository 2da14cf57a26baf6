"""Checkpoints written block by block: the files that the usual library writes, and a memory that does not grow with depth."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from manta.compress import quantise
from manta.compress.quantising import packing, writing
from manta.compress.quantising.memory import trim
from manta.compress.quantising.schemes import SCHEMES
from manta.compress.quantising.writing import Form
from manta.sections.quantise import Quantise

SIZES = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 32}


def tensors() -> dict[str, torch.Tensor]:
    """Of each type that the format is asked for, and a number without dimensions."""
    drawn = torch.Generator().manual_seed(0)
    found = {str(dtype): torch.randint(2, (3, 5), generator=drawn).to(dtype) for dtype in writing.NAMES}
    return {"z": torch.randn(40, 9, generator=drawn), "scale": torch.tensor(0.5), **found, "ü": torch.ones(2)}


@pytest.mark.parametrize("largest", [10**9, 900])
def test_files_are_those_of_the_library(tmp_path: Path, largest: int) -> None:
    from huggingface_hub import save_torch_state_dict

    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    made = tensors()
    save_torch_state_dict(made, tmp_path / "theirs", max_shard_size=largest)
    with writing.opened({name: Form.of(tensor) for name, tensor in made.items()}, tmp_path / "ours", largest) as writer:
        for name in sorted(made, reverse=True):
            writer.write(name, made[name])
    theirs = {file.name: file.read_bytes() for file in (tmp_path / "theirs").iterdir()}
    assert theirs == {file.name: file.read_bytes() for file in (tmp_path / "ours").iterdir()}
    assert len(theirs) == (1 if largest > 900 else 3)


def test_what_is_missing_or_of_another_form_is_refused(tmp_path: Path) -> None:
    forms = {"a": Form(torch.float32, (2,)), "b": Form(torch.int8, (1,))}
    with (
        pytest.raises(ValueError, match="1 tensors were not written, b among them"),
        writing.opened(forms, tmp_path) as writer,
    ):
        writer.write("a", torch.zeros(2))
    with pytest.raises(ValueError, match=r"a: Form\(dtype=torch\.float32, shape=\(3,\)\) is not"):
        writer.write("a", torch.zeros(3))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_form_of_codes_is_known_beforehand(scheme: str) -> None:
    made = SCHEMES[scheme](64, 32)
    coded = packing.coded(torch.zeros(6, 64), torch.ones(6, made.grid.groups(64)), made)
    forms = {end: Form.of(tensor) for end, tensor in coded.tensors.items()}
    assert list(packing.forms(made, 6, 64).items()) == list(forms.items())


def held() -> int:
    """Bytes of all tensors that somebody holds."""
    gc.collect()
    storages = {
        found.untyped_storage().data_ptr(): found.untyped_storage().nbytes()
        for found in gc.get_objects()
        if issubclass(type(found), torch.Tensor) and found.device.type == "cpu" and found.layout is torch.strided
    }
    return sum(storages.values())


def test_a_block_that_is_done_is_not_held(tmp_path: Path) -> None:
    """Neither as it was nor as what it became: what is held falls by a whole block with each."""
    config = transformers.LlamaConfig(**SIZES, num_hidden_layers=4, num_key_value_heads=4, dtype=torch.float32)
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    transformers.LlamaForCausalLM(config).save_pretrained(source)
    rows = np.random.default_rng(0).integers(64, size=(8, 16), dtype=np.int32)
    block = 4 * (4 * 128 * 128 + 3 * 128 * 256 + 2 * 128)
    after: list[int] = []
    quantise.apply(source, target, Quantise.model_validate({"scheme": "w4a16"}), rows, lambda *_: after.append(held()))
    falls = -np.diff(after)
    assert (np.abs(falls - block) < 0.02 * block).all(), f"{falls} against {block}"
    assert json.loads((target / "config.json").read_text())["quantization_config"]["format"] == "pack-quantized"
    found = transformers.LlamaForCausalLM.from_pretrained(target)
    assert found(input_ids=torch.from_numpy(rows).long()).logits.isfinite().all()


def test_freed_memory_between_what_stays_goes_back() -> None:
    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024

    large, small = [], []
    for _ in range(500):  # too small for maps of their own
        large.append(torch.ones(25_000))
        small.append(torch.ones(5_000))
    del large
    before = resident()
    trim()
    assert before - resident() > 40_000_000
    assert all(float(kept.sum()) == 5_000 for kept in small)
