"""`manta merge` and `unmerge`: sums of updates by hand and by peft, the way back, what cannot be done, other tools' layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from manta import adapt, adapters, cli
from manta.errors import InputError
from manta.sections.adapt import Lora
from tests.adapt.adaptable import METHODS, judged, make, state, train, write

LAYER = "model.layers.0.self_attn.q_proj.weight"


def learnt(name: str, method: Any, folder: Path, seed: int) -> dict[str, Any]:
    """Leaves `model/` and `adapter/` below a folder, trained on the base of seed 0; returns the merged model's weights."""
    torch.manual_seed(seed)
    settings = METHODS[method] if isinstance(method, str) else method
    model = adapt.apply(make(name), settings)
    train(model, name)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter) if parameter.requires_grad else 0.0
    write(adapt.export(model, state(model), settings), folder)
    return weights(folder / "model")


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, and runs one (rank 4), two (rank 4), wide (rank 2, every layer, rslora), each with adapter/ and model/."""
    folder = tmp_path_factory.mktemp("llamas")
    make("llama").save_pretrained(folder / "base")
    (folder / "base/tokenizer.json").write_text("{}")
    config = json.loads((folder / "base/config.json").read_text())  # as some models of the world have it, heads or none
    (folder / "base/config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b"}}))
    learnt("llama", "lora", folder / "one", 1)
    learnt("llama", "lora", folder / "two", 2)
    learnt("llama", Lora(method="lora", rank=2, targets="all-linear", rslora=True), folder / "wide", 3)
    return folder


def updates(folder: Path, run: str) -> dict[str, Any]:
    base, merged = weights(folder / "base"), weights(folder / run / "model")
    return {name: merged[name].double() - tensor.double() for name, tensor in base.items()}


@pytest.mark.parametrize("kept", [False, True])
def test_cat_is_the_weighted_sum_of_the_updates(kept: bool, llamas: Path, tmp_path: Path) -> None:
    """W + 0.5 D_one - 2 D_wide, ranks and scales different, as a model and as an adapter that is merged later."""
    given = [f"{llamas}/wide/adapter=-2", f"{llamas}/one=0.5"]
    adapters.merge(str(llamas / "base"), given, str(tmp_path / "sum"), keep_adapter=kept)
    if kept:
        assert json.loads((tmp_path / "sum/adapter_config.json").read_text())["r"] == 6
        adapters.merge(str(llamas / "base"), [str(tmp_path / "sum")], str(tmp_path / "again"))
    found, base = weights(tmp_path / ("again" if kept else "sum")), weights(llamas / "base")
    one, wide = updates(llamas, "one"), updates(llamas, "wide")
    assert found.keys() == base.keys()
    for name, tensor in found.items():
        expected = base[name].double() + 0.5 * one[name] - 2 * wide[name]
        assert torch.allclose(tensor.double(), expected, atol=2e-6), name
    assert not torch.allclose(found[LAYER], base[LAYER], atol=1e-3)


def test_a_combined_adapter_answers_in_peft_as_its_model_does(llamas: Path, tmp_path: Path) -> None:
    import transformers
    from peft import PeftModel

    given = [f"{llamas}/one=0.7", f"{llamas}/two=0.3"]
    adapters.merge(str(llamas / "base"), given, str(tmp_path / "adapter"), keep_adapter=True)
    adapters.merge(str(llamas / "base"), given, str(tmp_path / "model"))
    beside = PeftModel.from_pretrained(make("llama"), tmp_path / "adapter")
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.allclose(judged(beside, "llama"), judged(whole, "llama"), atol=1e-5)
    assert (tmp_path / "model/tokenizer.json").exists()
    assert str(llamas) not in (tmp_path / "adapter/adapter_config.json").read_text()


def test_svd_is_the_nearest_of_its_rank(llamas: Path, tmp_path: Path) -> None:
    adapters.merge(str(llamas / "base"), [f"{llamas}/one", f"{llamas}/two"], str(tmp_path / "m"), method="svd")
    found = weights(tmp_path / "m")[LAYER] - weights(llamas / "base")[LAYER]
    left, sizes, right = torch.linalg.svd(updates(llamas, "one")[LAYER] + updates(llamas, "two")[LAYER])
    nearest = left[:, :4] @ torch.diag(sizes[:4]) @ right[:4]
    assert torch.linalg.matrix_rank(found, atol=1e-4) == 4
    assert torch.allclose(found.double(), nearest, atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties"])
def test_rough_methods_are_peft_s_own_and_the_same_each_time(method: str, llamas: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    density = None if method == "linear" else 0.5
    for number in range(2):
        adapters.merge(str(llamas / "base"), [f"{llamas}/one=0.6", f"{llamas}/two=0.4"], str(tmp_path / str(number)), method=method, density=density, seed=5)  # fmt: skip
    found = weights(tmp_path / "0")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(tmp_path / "1").items())
    own = PeftModel.from_pretrained(make("llama"), llamas / "one/adapter", adapter_name="one")
    own.load_adapter(llamas / "two/adapter", adapter_name="two")
    torch.manual_seed(5)
    own.add_weighted_adapter(["one", "two"], [0.6, 0.4], "both", combination_type=method, density=density)
    own.set_adapter("both")
    expected = own.merge_and_unload().state_dict()
    assert torch.allclose(found[LAYER], expected[LAYER], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "method"),
    [("llama", "lora"), ("gpt2", "lora"), ("llama", "ia3"), ("gpt2", "ia3"), ("bert-texts", "rslora")],
)
def test_taking_an_adapter_out_again_gives_the_base_back(name: str, method: str, tmp_path: Path) -> None:
    merged = learnt(name, method, tmp_path / "run", 4)
    adapters.unmerge(str(tmp_path / "run/model"), str(tmp_path / "run/adapter"), str(tmp_path / "back"))
    back, base = weights(tmp_path / "back"), state(make(name))
    bodies = [key for key in back if "classifier" not in key and "pooler" not in key]
    assert max((merged[key] - base[key]).abs().max() for key in bodies) > 0.02
    for key in bodies:
        assert torch.allclose(back[key], base[key], rtol=1e-6, atol=1e-6), key
    if name == "bert-texts":
        assert torch.equal(back["classifier.weight"], merged["classifier.weight"]), "a head stays as it was trained"


def test_half_of_an_adapter_goes_in_and_out(llamas: Path, tmp_path: Path) -> None:
    adapters.merge(str(llamas / "base"), [f"{llamas}/wide=0.5"], str(tmp_path / "half"))
    base, half = weights(llamas / "base")[LAYER], weights(tmp_path / "half")[LAYER]
    assert torch.allclose((half - base).double(), 0.5 * updates(llamas, "wide")[LAYER], atol=1e-6)
    adapters.unmerge(str(tmp_path / "half"), f"{llamas}/wide=0.5", str(tmp_path / "back"))
    assert torch.allclose(weights(tmp_path / "back")[LAYER], base, atol=1e-6)


def test_dora_leaves_no_way_back(tmp_path: Path) -> None:
    learnt("llama", "dora", tmp_path / "run", 4)
    with pytest.raises(InputError, match="dora sets each row's length anew"):
        adapters.unmerge(str(tmp_path / "run/model"), str(tmp_path / "run"), str(tmp_path / "back"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "nothing half-done is left"


@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_one_adapter_with_its_head_is_merged_as_the_run_does(method: str, tmp_path: Path) -> None:
    expected = learnt("bert-texts", method, tmp_path / "run", 4)
    make("bert-texts").save_pretrained(tmp_path / "base")
    adapters.merge(str(tmp_path / "base"), [str(tmp_path / "run")], str(tmp_path / "merged"))
    found = weights(tmp_path / "merged")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["id2label"] == json.loads((tmp_path / "run/model/config.json").read_text())["id2label"]


def test_a_run_knows_its_base(llamas: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(llamas / "one/adapter", run / "adapter")
    inputs = {"model.source": {"ref": "base", "kind": "directory", "path": str(llamas / "base")}}
    (run / "manifest.json").write_text(json.dumps({"kind": "finetune", "name": "run", "inputs": inputs}))
    (run / "COMPLETE").write_text("")
    assert cli.main(["merge", str(run), "--output", str(tmp_path / "whole")]) == 0
    assert f"{tmp_path}/whole: base with 1 of {run}" in capsys.readouterr().out
    expected = weights(llamas / "one/model")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "whole").items())
    assert cli.main(["unmerge", str(tmp_path / "whole"), str(run), "--output", str(tmp_path / "base")]) == 0
    assert torch.allclose(weights(tmp_path / "base")[LAYER], weights(llamas / "base")[LAYER], atol=1e-6)


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        (["one=much"], {}, "the weight behind = is a number"),
        (["nowhere"], {}, "holds no adapter_config.json"),
        (["one", "two"], {"method": "ties"}, "add --density"),
        (["one", "two"], {"density": 0.5}, "--density 0.5 is not read by --method cat"),
        (["one", "two"], {"method": "ties", "density": 1.5}, "a share above 0"),
        (["one", "wide"], {"method": "linear"}, "matrices of equal ranks"),
        (["one", "factors"], {}, "of method ia3: only lora's updates"),
        (["factors=0.5"], {}, "of method ia3: only lora's updates"),
        (["one", "before"], {}, "no part of a model's weights"),
    ],
)
def test_what_cannot_be_put_together_is_refused(
    more: list[str], options: dict[str, Any], message: str, llamas: Path, tmp_path: Path
) -> None:
    for name, method in (("factors", "ia3"), ("before", "prompt")):
        if name in "".join(more) and not (llamas / name).exists():
            write(adapt.export(model := adapt.apply(make("llama"), METHODS[method]), state(model), METHODS[method]), llamas / name)  # fmt: skip
    with pytest.raises(InputError, match=message):
        adapters.merge(str(llamas / "base"), [f"{llamas}/{word}" for word in more], str(tmp_path / "m"), **options)
    assert not list(tmp_path.iterdir())


def test_heads_are_not_added_up_and_folders_not_overwritten(llamas: Path, tmp_path: Path) -> None:
    learnt("bert-texts", "lora", tmp_path / "a", 1)
    make("bert-texts").save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="holds a head"):
        adapters.merge(str(tmp_path / "base"), [f"{tmp_path}/a", f"{tmp_path}/a"], str(tmp_path / "m"))
    with pytest.raises(InputError, match="there is something already"):
        adapters.merge(str(llamas / "base"), [f"{llamas}/one"], str(tmp_path / "base"))
