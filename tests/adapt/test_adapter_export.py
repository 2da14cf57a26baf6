"""What is left after training: adapters that peft loads again, merged models that answer alike, the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from manta import adapt
from manta.sections.adapt import Lora
from tests.adapt.adaptable import CLASSES, FITTING, METHODS, answers, inputs, judged, make, state, train, write

WHOLE = ("full", "freeze", "head", "bitfit")
MERGED = ("lora", "rslora", "all-linear", "dora", "ia3")
BEFORE = ("prefix", "prompt")
OWN_WHOLE = [pair for pair in FITTING if pair[1] in WHOLE]
OWN_MERGED = [pair for pair in FITTING if pair[1] in MERGED]
OWN_BEFORE = [pair for pair in FITTING if pair[1] in BEFORE]


def trained(name: str, method: str, folder: Path, seed: int = 0) -> Any:
    """A model that has learnt for some steps, exported to `folder`."""
    torch.manual_seed(seed)
    model = adapt.apply(make(name), METHODS[method])
    train(model, name)
    if method in MERGED:  # factors near 1 and updates near 0 would hide mistakes
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter) if parameter.requires_grad else 0.0
    write(adapt.export(model, state(model), METHODS[method]), folder)
    return model


def opened(name: str, folder: Path) -> Any:
    import transformers

    model, found = getattr(transformers, CLASSES[name][1]).from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    return model


def with_adapter(name: str, folder: Path) -> Any:
    """A fresh base, whose head is another than the one that was trained, with the adapter as peft loads it."""
    from peft import PeftModel

    base = make(name)
    fresh = make(name, seed=9)
    for key, parameter in base.named_parameters():
        if "classifier" in key or "score" in key or "qa_outputs" in key or "pooler" in key:
            parameter.data.copy_(fresh.get_parameter(key))
    return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize(("name", "method"), OWN_WHOLE)
def test_a_whole_model_is_written(name: str, method: str, tmp_path: Path) -> None:
    model = trained(name, method, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert torch.equal(judged(opened(name, tmp_path / "model"), name), judged(model, name))


@pytest.mark.parametrize(("name", "method"), OWN_MERGED)
def test_adapter_and_merged_model_answer_as_the_trained_one(name: str, method: str, tmp_path: Path) -> None:
    model = trained(name, method, tmp_path)
    expected = judged(model, name)
    change = (expected - judged(make(name), name)).abs().max()
    assert change > 1e-3, "what was learnt does something"
    adapted = with_adapter(name, tmp_path / "adapter")
    assert torch.equal(judged(adapted, name), expected)
    merged = opened(name, tmp_path / "model")
    assert (judged(merged, name) - expected).abs().max() < 1e-3 * change
    by_peft = adapted.merge_and_unload().state_dict()
    assert by_peft.keys() == merged.state_dict().keys()
    for key, tensor in merged.state_dict().items():
        assert torch.allclose(tensor, by_peft[key], atol=1e-6), key
    assert json.loads((tmp_path / "model/config.json").read_text())["architectures"] == [CLASSES[name][1]]


@pytest.mark.parametrize(("name", "method"), OWN_BEFORE)
def test_what_stands_before_the_text_comes_back_by_peft(name: str, method: str, tmp_path: Path) -> None:
    model = trained(name, method, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    expected = judged(model, name)
    assert (expected - judged(make(name), name)).abs().max() > 1e-3
    adapted = with_adapter(name, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = adapted(**inputs(name))
    if method == "prompt" and not name.endswith("texts") and name not in ("t5", "bart"):
        for key in ("logits", "start_logits", "end_logits"):
            if key in found:
                found[key] = found[key][:, 5:]  # peft gives the learnt tokens' own answers too
    again = torch.cat([found[key].reshape(-1) for key in ("logits", "start_logits", "end_logits") if key in found])
    assert torch.equal(again, expected)


def test_dora_s_merge_by_hand(tmp_path: Path) -> None:
    """m_i (W + s B A)_i / |(W + s B A)_i| on numbers that can be followed on paper."""
    from manta.adapt import merging

    settings = Lora(method="dora", rank=1, alpha=2.0, targets=["q_proj"])
    model = adapt.apply(make("llama"), settings)
    weights = state(model)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    weight = torch.zeros(32, 32)
    weight[0, 0], weight[1, 1] = 1.0, 5.0
    weight[2:, 2:] = torch.eye(30)
    up, down = torch.zeros(32, 1), torch.zeros(1, 32)
    up[0, 0], down[0, 1] = 2.0, 0.25  # s B A adds 2 * 2 * 0.25 = 1 at (0, 1): row 0 is (1, 1, 0, ...)
    lengths = torch.ones(32)
    lengths[0], lengths[1] = 2.0, 10.0
    weights |= {f"{layer}.base_layer.weight": weight, f"{layer}.lora_A.default.weight": down, f"{layer}.lora_B.default.weight": up, f"{layer}.lora_magnitude_vector.default.weight": lengths}  # fmt: skip
    merged = merging.merge(model, weights)["model.layers.0.self_attn.q_proj.weight"]
    assert torch.allclose(merged[0, :3], torch.tensor([2 / 2**0.5, 2 / 2**0.5, 0.0]))
    assert merged[1, 1] == 10.0
    assert torch.equal(merged[2:], weight[2:])


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    from manta.adapt import merging

    model = adapt.apply(make("llama"), METHODS["rslora"])
    weights = state(model)
    layer = "base_model.model.model.layers.1.self_attn.v_proj"
    weights[f"{layer}.lora_B.default.weight"] = torch.ones(16, 4)
    added = (
        merging.merge(model, weights)["model.layers.1.self_attn.v_proj.weight"] - weights[f"{layer}.base_layer.weight"]
    )
    expected = 12.0 / 4**0.5 * weights[f"{layer}.lora_A.default.weight"].sum(0)
    assert torch.allclose(added, expected.expand(16, -1), atol=1e-5)


def test_merging_keeps_the_type_of_the_base_and_works_in_float32() -> None:
    from manta.adapt import merging

    model = adapt.apply(make("llama").to(torch.bfloat16), METHODS["lora"])
    train(model, "llama")
    weights = state(model)
    merged = merging.merge(model, weights)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    update = weights[f"{layer}.lora_B.default.weight"].float() @ weights[f"{layer}.lora_A.default.weight"].float()
    exact = weights[f"{layer}.base_layer.weight"].float() + 3.0 * update
    assert torch.equal(merged["model.layers.0.self_attn.q_proj.weight"], exact.to(torch.bfloat16))


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prefix", "prompt"])
def test_an_adapter_names_no_place_and_is_the_same_every_time(method: str, tmp_path: Path) -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    make("bert-texts").save_pretrained(tmp_path / "base")
    for number in range(2):
        torch.manual_seed(0)
        base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
        model = adapt.apply(base, METHODS[method])
        train(model, "bert-texts")
        write({"adapter": adapt.export(model, state(model), METHODS[method])["adapter"]}, tmp_path / str(number))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        first, second = ((tmp_path / str(number) / "adapter" / file).read_bytes() for number in range(2))
        assert first == second
        assert str(tmp_path).encode() not in first


def test_the_head_and_its_pooler_are_part_of_the_adapter(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for method in ("lora", "ia3", "prefix", "prompt"):
        trained("bert-texts", method, tmp_path / method)
        names = set(load_file(tmp_path / method / "adapter/adapter_model.safetensors"))
        ends = ("pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias")
        assert all(any(name.endswith(end) for name in names) for end in ends), (method, names)


def test_without_merge_only_the_adapter_is_left() -> None:
    settings = Lora(method="lora", merge=False)
    model = adapt.apply(make("llama"), settings)
    assert list(adapt.export(model, state(model), settings)) == ["adapter"]


def test_two_adapters_stand_beside_one_base_and_are_switched(tmp_path: Path) -> None:
    from peft import PeftModel

    first, second = trained("gpt2", "lora", tmp_path / "a"), trained("gpt2", "dora", tmp_path / "b", seed=5)
    both = PeftModel.from_pretrained(make("gpt2"), tmp_path / "a/adapter", adapter_name="a")
    both.load_adapter(tmp_path / "b/adapter", adapter_name="b")
    for name, own in (("a", first), ("b", second), ("a", first)):
        both.set_adapter(name)
        assert torch.equal(judged(both, "gpt2"), judged(own, "gpt2"))
    with both.disable_adapter():
        assert torch.equal(judged(both, "gpt2"), judged(make("gpt2"), "gpt2")), "the base is kept"


def test_answers_are_compared_in_full() -> None:
    assert answers(make("bert-spans"), "bert-spans").shape == (2 * 2 * 12,)
