"""Every scheme is written, loaded by the engines that can run it here, and believed to be the same by both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from manta.compress import quantise
from manta.data.sample import sample_rows
from manta.sections.quantise import Quantise
from manta.storage import Folder

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

pytestmark = pytest.mark.integration


class Case(NamedTuple):
    """`recovery`: perplexity over the source's, at most. `served`: whether vLLM runs it on a CPU."""

    settings: dict[str, Any]
    recovery: float
    served: bool = True


CASES = {
    "w8a8-searched": Case({"smoothquant": "search"}, 1.01),
    "w4a16-gptq": Case({"scheme": "w4a16"}, 1.05),
    "w4a16-rtn": Case({"scheme": "w4a16", "algorithm": "rtn", "group_size": 32}, 1.12),
    "w4a16-awq": Case({"scheme": "w4a16", "algorithm": "awq"}, 1.12),
    "mixed": Case({"mixed": {"size_ratio": 0.5}}, 1.03),
    "kv-cache": Case({"kv_cache": "fp8"}, 1.02),
    "fp8": Case({"scheme": "fp8", "algorithm": "rtn"}, 1.02, served=False),
}
# A process of its own: vLLM gives no memory back, and one after another in it is faster than seven processes.
BELIEVE = """
import json, sys
from pathlib import Path
from manta.evaluate import vllm_engine
rows = json.load(open(sys.argv[1]))
for place in sys.argv[2:]:
    judge = vllm_engine.judge(Path(place), "bfloat16", max(map(len, rows)))  # its int4 kernel knows no float32
    (Path(place) / "believed.json").write_text(json.dumps([logs for logs, _ in judge.believe(rows)]))
    del judge
"""


@pytest.fixture(scope="module")
def made(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every case's model; those that vLLM runs with what it believes of the rows."""
    folder = tmp_path_factory.mktemp("schemes")
    calibration = sample_rows(Folder(trained.shards), "train", 32, seed=0)
    places = {name: folder / name for name in CASES}
    for name, case in CASES.items():
        settings = Quantise.model_validate(case.settings)
        places[name].mkdir()
        rows = calibration if settings.reads_rows else None
        quantise.apply(trained.model, places[name], settings, rows, lambda done, total: None)
    file = folder / "rows.json"
    file.write_text(json.dumps(_rows(trained).tolist()))
    served = [str(places[name]) for name, case in CASES.items() if case.served]
    done = subprocess.run(
        [sys.executable, "-c", BELIEVE, file, *served], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return places


def _rows(trained: Trained) -> np.ndarray:
    return sample_rows(Folder(trained.shards), "validation", 16, seed=0)


def _believed(model: Path, rows: np.ndarray) -> np.ndarray:
    """What Transformers believes: log-probabilities of all tokens but the first, (rows, seq - 1) float32."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = torch.from_numpy(rows).long()
    with torch.inference_mode():
        logs = loaded(input_ids=tokens).logits[:, :-1].log_softmax(-1)
    return logs.gather(2, tokens[:, 1:, None])[..., 0].numpy()


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_was_learnt(trained: Trained, made: dict[str, Path], name: str) -> None:
    rows = _rows(trained)
    before, after = _believed(trained.model, rows), _believed(made[name], rows)
    assert np.exp(before.mean() - after.mean()) < CASES[name].recovery
    assert np.abs(before - after).max() > 1e-4, "nothing was rounded"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.served])
def test_vllm_believes_what_transformers_does(trained: Trained, made: dict[str, Path], name: str) -> None:
    ours = _believed(made[name], _rows(trained))
    served = np.array(json.loads((made[name] / "believed.json").read_text()))
    assert np.abs(served - ours).mean() < 0.06  # bfloat16 against float32
    assert np.exp(ours.mean() - served.mean()) == pytest.approx(1.0, abs=0.02)


def test_a_mixed_model_has_the_size_that_was_asked_for(trained: Trained, made: dict[str, Path]) -> None:
    sizes = [(place / "model.safetensors").stat().st_size for place in (made["mixed"], trained.model)]
    assert 0.42 < sizes[0] / sizes[1] < 0.51
    config = json.loads((made["mixed"] / "config.json").read_text())["quantization_config"]
    assert len(config["config_groups"]) == 2


def test_scales_of_the_cache_are_in_the_checkpoint(made: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    found = load_file(made["kv-cache"] / "model.safetensors")
    scales = [found[f"model.layers.{n}.self_attn.{kind}_scale"].item() for n in range(3) for kind in "kv"]
    assert all(1e-4 < scale < 1.0 for scale in scales)
