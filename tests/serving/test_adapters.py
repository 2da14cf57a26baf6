"""Adapters that are served, and those that are refused before anything starts."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from manta import recipe as recipes
from manta.errors import InputError
from manta.storage import Folder
from serving import launch
from serving.engines import vllm as engine
from serving.engines.adapters import room
from serving.launch import Launch, Served
from tests.serving import lora

HIDDEN, INNER, RANK = 8, 12, 4
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", "use_dora": False, "modules_to_save": None}


def make_base(folder: Path, shards: int = 1, **config: Any) -> Path:
    weights = {Q: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER), "model.embed_tokens": (50, HIDDEN)}
    folder.mkdir(parents=True)
    made = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, **config}
    (folder / "config.json").write_text(json.dumps(made))
    if shards == 1:
        save_file({f"{name}.weight": zeros(*shape) for name, shape in weights.items()}, folder / "model.safetensors")
        return folder
    where = {}
    for number, (name, shape) in enumerate(weights.items()):
        file = f"model-{number}.safetensors"
        save_file({f"{name}.weight": zeros(*shape)}, folder / file)
        where[f"{name}.weight"] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def make_adapter(folder: Path, changes: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A PEFT directory that fits the base; `changes`: other tensors of it, None for one that is absent."""
    folder.mkdir(parents=True)
    prefix = "base_model.model."
    tensors = {
        f"{prefix}{Q}.lora_A.weight": zeros(RANK, HIDDEN),
        f"{prefix}{Q}.lora_B.weight": zeros(HIDDEN, RANK),
        f"{prefix}{DOWN}.lora_A.weight": zeros(RANK, INNER),
        f"{prefix}{DOWN}.lora_B.weight": zeros(HIDDEN, RANK),
        f"{prefix}model.embed_tokens.lora_embedding_A": zeros(RANK, 50),
        f"{prefix}model.embed_tokens.lora_embedding_B": zeros(HIDDEN, RANK),
    } | {prefix + name: tensor for name, tensor in (changes or {}).items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **settings}))
    return folder


def prepare(base: Path | str, output: Path, gpus: int = 0, **adapters: Path | str) -> Launch:
    named = {name: str(folder) for name, folder in adapters.items()}
    made: Any = recipes.validate(
        {
            "kind": "serve",
            "name": "s",
            "output": str(output),
            "model": {"source": str(base), "adapters": named},
            "serve": {"port": 0},
            "resources": {"gpus_per_replica": gpus},
        }
    )
    return launch.prepare(made)


def one_of(made: Launch) -> Served:
    [served] = made.served
    return served


@pytest.mark.parametrize("shards", [1, 3])
def test_a_peft_directory_is_served_under_its_name(tmp_path, shards):
    folder = make_adapter(tmp_path / "a")
    served = one_of(prepare(make_base(tmp_path / "m", shards), tmp_path, legal=folder))
    [adapter] = served.adapters
    assert (adapter.name, adapter.folder, adapter.rank) == ("legal", str(folder), RANK)
    assert served.names == ("s", "legal")
    assert served.fingerprints("legal") == (served.fingerprint, adapter.fingerprint)
    assert served.fingerprints("s") == (served.fingerprint,)


def test_the_launchs_own_fingerprint_tells_its_adapters_apart(tmp_path):
    base = make_base(tmp_path / "m")
    one, two = make_adapter(tmp_path / "a"), make_adapter(tmp_path / "b", lora_alpha=16)
    told = {prepare(base, tmp_path, **named).fingerprint for named in ({}, {"a": one}, {"a": two}, {"b": one})}
    assert len(told) == 4


def test_base_and_adapter_may_lie_in_a_store(tmp_path):
    store = f"memory://{uuid.uuid4().hex}"
    for name, folder in (("m", make_base(tmp_path / "m", shards=3)), ("a", make_adapter(tmp_path / "a"))):
        with Folder(store).staged(name) as scratch:
            shutil.copytree(folder, scratch, dirs_exist_ok=True)
    [adapter] = one_of(prepare(f"{store}/m", tmp_path, legal=f"{store}/a")).adapters
    assert (adapter.folder, adapter.rank) == (f"{store}/a", RANK)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "of type PREFIX_TUNING.*adapt.method=lora"),
        ({"use_dora": True}, "use_dora=True.*manta merge"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"r": 1024}, "rank 1024, over the engine's 512"),
        ({"rank_pattern": {"q_proj": 600}}, "rank 600"),
    ],
)
def test_what_the_engine_would_leave_out_is_refused(tmp_path, settings, said):
    folder = make_adapter(tmp_path / "a", **settings)
    with pytest.raises(InputError, match=said) as caught:
        prepare(make_base(tmp_path / "m"), tmp_path, legal=folder)
    assert "model.adapters.legal" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{Q}.lora_A.weight": zeros(RANK, HIDDEN * 2)}, rf"\[4, 16\] for {Q}, which is \[8, 8\]"),
        ({f"{DOWN}.lora_B.weight": zeros(INNER, RANK)}, rf"\[12, 4\] for {DOWN}"),
        ({"model.embed_tokens.lora_embedding_A": zeros(RANK, 51)}, r"\[4, 51\] for model.embed_tokens"),
        ({"model.layers.7.self_attn.q_proj.lora_A.weight": zeros(RANK, HIDDEN)}, "model.layers.7.self_attn.q_proj, which"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_model_is_refused(tmp_path, changes, said):
    folder = make_adapter(tmp_path / "a", changes)
    with pytest.raises(InputError, match=said):
        prepare(make_base(tmp_path / "m"), tmp_path, legal=folder)


def test_packed_weights_are_not_compared(tmp_path):
    base = make_base(tmp_path / "m")
    save_file({f"{Q}.weight_packed": zeros(1, 1), f"{DOWN}.weight": zeros(HIDDEN, INNER), "model.embed_tokens.weight": zeros(50, HIDDEN)}, base / "model.safetensors")  # fmt: skip
    assert one_of(prepare(base, tmp_path, legal=make_adapter(tmp_path / "a"))).adapters


def test_a_head_that_is_the_embeddings_may_be_tuned(tmp_path):
    changes = {"lm_head.lora_A.weight": zeros(RANK, HIDDEN), "lm_head.lora_B.weight": zeros(50, RANK)}
    assert one_of(prepare(make_base(tmp_path / "m"), tmp_path, legal=make_adapter(tmp_path / "a", changes))).adapters


def test_a_type_of_model_that_takes_none(tmp_path):
    with pytest.raises(InputError, match=r"no adapters of gpt2 models.*manta merge"):
        prepare(make_base(tmp_path / "m", model_type="gpt2"), tmp_path, legal=make_adapter(tmp_path / "a"))


def test_a_quantised_model_takes_none_on_cpus(tmp_path):
    base = make_base(tmp_path / "m", quantization_config={"quant_method": "compressed-tensors"})
    adapter = make_adapter(tmp_path / "a")
    with pytest.raises(InputError, match="on CPUs the engine takes no adapters of quantised models"):
        prepare(base, tmp_path, legal=adapter)
    assert one_of(prepare(base, tmp_path, gpus=1, legal=adapter)).adapters


def test_pickled_weights_are_not_read(tmp_path):
    folder = make_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="safe_serialization=True"):
        prepare(make_base(tmp_path / "m"), tmp_path, legal=folder)


class TestRuns:
    """Adapters that `manta finetune` left tell what they were tuned from."""

    def base(self, root: Path, name: str = "base", kind: str = "pretrain", source: dict[str, str] | None = None) -> Any:
        make_base(root / name / "model")
        lora.as_run(root / name, name, source or {}, kind)
        manifest = json.loads((root / name / "manifest.json").read_text())
        return {"ref": name, "kind": kind, "path": str(root / name), "fingerprint": manifest["fingerprint"], "content": "c"}  # fmt: skip

    def tuned(self, root: Path, source: dict[str, str], name: str = "tuned") -> str:
        make_adapter(root / name / "adapter")
        lora.as_run(root / name, name, source)
        return name

    def test_one_of_this_model_is_served(self, tmp_path):
        source = self.base(tmp_path)
        [adapter] = one_of(prepare("base", tmp_path, legal=self.tuned(tmp_path, source))).adapters
        assert adapter.folder == str(tmp_path / "tuned" / "adapter")
        assert adapter.fingerprint == recipes.digest("tuned")

    def test_one_of_what_this_model_was_compressed_from_too(self, tmp_path, monkeypatch):
        monkeypatch.setattr(launch, "require_proof", lambda *_: None)
        source = self.base(tmp_path)
        self.base(tmp_path, "small", "compress", source)
        assert one_of(prepare("small", tmp_path, legal=self.tuned(tmp_path, source))).adapters

    def test_one_of_another_model_is_refused_though_the_shapes_agree(self, tmp_path):
        self.base(tmp_path)
        other = self.base(tmp_path, "other")
        with pytest.raises(InputError, match=r"was tuned from 'other'.*model\.source = 'base'.*is another model"):
            prepare("base", tmp_path, legal=self.tuned(tmp_path, other))

    def test_a_run_that_left_no_adapter(self, tmp_path):
        source = self.base(tmp_path)
        lora.as_run(tmp_path / "full", "full", source)
        with pytest.raises(InputError, match=r"holds no adapter.*adapt\.method=lora"):
            prepare("base", tmp_path, legal="full")

    def test_a_run_that_made_no_adapter_by_kind(self, tmp_path):
        self.base(tmp_path)
        with pytest.raises(InputError, match="is a pretrain, but one of these is needed: finetune, tune, adapter"):
            prepare("base", tmp_path, legal="base")

    def test_a_folder_that_is_no_adapter(self, tmp_path):
        with pytest.raises(InputError, match="is a directory, but one of these is needed: finetune, tune, adapter"):
            prepare(make_base(tmp_path / "m"), tmp_path, legal=make_base(tmp_path / "n"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"nor an adapter \(adapter_config\.json\)"):
            prepare(tmp_path / "m", tmp_path, legal=tmp_path / "empty")


class TestEngine:
    def flags(self, tmp_path: Path, gpus: int = 0, num: int = 2) -> dict[str, str]:
        adapters = {f"a{n}": make_adapter(tmp_path / f"a{n}", r=RANK + 8 * n) for n in range(num)}
        made = prepare(make_base(tmp_path / "m"), tmp_path, **adapters)
        served = Served(**{**vars(one_of(made)), "gpus": gpus})
        flags = engine.arguments(served, "/m", {name: f"/{name}" for name in adapters})
        assert [json.loads(one)["name"] for one in flags[flags.index("--lora-modules") + 1 :]] == list(adapters)
        return {name: flags[flags.index(name) + 1] for name in ("--max-loras", "--max-cpu-loras", "--max-lora-rank")}

    def test_on_cpus_one_slot_stays_empty(self, tmp_path):
        """vLLM adds what is in the last slot to rows without an adapter."""
        assert self.flags(tmp_path) == {"--max-loras": "3", "--max-cpu-loras": "3", "--max-lora-rank": "16"}

    def test_on_gpus_slots_are_few(self, tmp_path):
        assert self.flags(tmp_path, 1, 10)["--max-loras"] == "8"

    def test_without_adapters_the_engine_knows_nothing_of_them(self, tmp_path):
        assert "--enable-lora" not in engine.arguments(one_of(prepare(make_base(tmp_path / "m"), tmp_path)), "/m")

    @pytest.mark.parametrize(("ranks", "wanted"), [([1], 1), ([4, 2], 8), ([8, 9], 16), ([512], 512)])
    def test_room_for_the_largest(self, ranks, wanted):
        assert room(ranks) == wanted
