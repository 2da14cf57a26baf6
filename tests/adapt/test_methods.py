"""Adapting a model: what moves, what stays, and what is written; checked against peft."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manta import adapt
from manta.errors import InputError
from manta.sections.train import Adapt

CONFIG = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def train(model: Any, steps: int = 3) -> None:
    """A few steps of plain AdamW on fixed tokens, on whatever may move."""
    import torch

    torch.manual_seed(1)
    tokens = torch.randint(0, 96, (2, 16))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: Any) -> Any:
    import torch

    torch.manual_seed(2)
    with torch.no_grad():
        return model.eval()(input_ids=torch.randint(0, 96, (2, 16))).logits


def cpu_state(model: Any) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def write(writers: dict[str, Callable[[Path], None]], folder: Path) -> None:
    for name, writer in writers.items():
        (folder / name).mkdir(parents=True)
        writer(folder / name)


def test_freezing_leaves_tensors_unchanged_to_the_bit(base: Path) -> None:
    import torch

    settings = Adapt(method="freeze", freeze_layers=2)
    model = adapt.apply(load(base), settings)
    before = cpu_state(model)
    train(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(("model.layers.2.", "model.norm")) for name in changed), changed
    assert any("mlp" in name for name in changed)
    assert "model.norm.weight" in changed


def test_full_tuning_moves_everything(base: Path) -> None:
    import torch

    model = adapt.apply(load(base), Adapt(method="full"))
    before = cpu_state(model)
    train(model)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_a_whole_model_is_written(base: Path, method: str, tmp_path: Path) -> None:
    import torch

    settings = Adapt(method=method, freeze_layers=1)  # type: ignore[arg-type]
    model = adapt.apply(load(base), settings)
    train(model)
    write(adapt.export(model, cpu_state(model), settings, base), tmp_path)
    assert torch.equal(logits(load(tmp_path / "model")), logits(model))


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model with trained low-rank updates, and the folder where it was exported."""
    import torch

    settings = Adapt(method="lora", rank=4, alpha=12.0, targets=["q_proj", "v_proj", "down_proj"])
    torch.manual_seed(0)
    model = adapt.apply(load(base), settings)
    train(model, steps=5)
    folder = tmp_path_factory.mktemp("lora")
    write(adapt.export(model, cpu_state(model), settings, base), folder)
    return model, folder


def test_lora_trains_only_the_updates(lora: tuple[Any, Path]) -> None:
    moving = [name for name, parameter in lora[0].named_parameters() if parameter.requires_grad]
    assert len(moving) == 2 * 3 * 3  # A and B of three targets in three layers
    assert all(".lora_A." in name or ".lora_B." in name for name in moving)


def test_lora_starts_from_the_base_s_own_answers(base: Path) -> None:
    import torch

    assert torch.equal(logits(adapt.apply(load(base), Adapt(method="lora"))), logits(load(base)))


def test_peft_loads_the_adapter(base: Path, lora: tuple[Any, Path]) -> None:
    import torch
    from peft import PeftModel

    model, folder = lora
    again = PeftModel.from_pretrained(load(base), folder / "adapter")
    assert torch.equal(logits(again), logits(model))
    assert not torch.allclose(logits(again), logits(load(base)), atol=1e-3), "the updates do something"


def test_the_merged_model_answers_like_base_and_adapter(base: Path, lora: tuple[Any, Path]) -> None:
    import torch
    from peft import PeftModel

    model, folder = lora
    merged = load(folder / "model")
    assert torch.allclose(logits(merged), logits(model), atol=1e-5)
    by_peft = PeftModel.from_pretrained(load(base), folder / "adapter").merge_and_unload().state_dict()
    for name, tensor in merged.state_dict().items():
        assert torch.allclose(tensor, by_peft[name], atol=1e-6), name
    assert json.loads((folder / "model/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_adapter_names_no_place_and_is_the_same_every_time(
    base: Path, lora: tuple[Any, Path], tmp_path: Path
) -> None:
    model, folder = lora
    settings = Adapt(method="lora", rank=4, alpha=12.0)
    write({"adapter": adapt.export(model, cpu_state(model), settings, base)["adapter"]}, tmp_path)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "adapter" / name).read_bytes() == (folder / "adapter" / name).read_bytes()
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 12.0)
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    assert str(base) not in json.dumps(config)


def test_without_merge_only_the_adapter_is_left(base: Path) -> None:
    settings = Adapt(method="lora", merge=False)
    assert list(adapt.export(adapt.apply(load(base), settings), {}, settings, base)) == ["adapter"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Adapt(method="freeze", freeze_layers=4), "adapt.freeze_layers = 4, but the model has 3 layers"),
        (Adapt(method="lora", targets=["q_prj"]), r"adapt.targets = \['q_prj'\]: .* it has .*q_proj"),
        (Adapt(method="lora", targets=[]), "name at least one layer"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(base: Path, settings: Adapt, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapt.apply(load(base), settings)
