"""int8 encoders: what is stored, that Transformers reads the same weights, that torch's kernels answer nearly the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from manta import recipe as recipes
from manta.compress import dynamic
from manta.errors import InputError, RecipeError
from manta.models import load
from manta.models.load import weight_bytes
from manta.sections.compress import Dynamic
from tests.tasks.labelled import SENTIMENTS

SIZES = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders") / "base"
    config = transformers.BertConfig(**SIZES, num_labels=3, initializer_range=0.1)
    transformers.BertForSequenceClassification(config).eval().save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def small(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders-int8")
    done: list[tuple[int, int]] = []
    said = dynamic.apply(base, folder, Dynamic(), None, lambda *blocks: done.append(blocks))
    assert said == {"scheme": "int8_dynamic", "algorithm": "rtn"}
    assert done == [(1, 1)]
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def test_only_the_linear_layers_of_the_body_are_integers(base: Path, small: Path) -> None:
    before, after = tensors(base), tensors(small)
    integers = {name for name, tensor in after.items() if tensor.dtype == torch.int8}
    assert len(integers) == 2 * 6 + 1, "six in each layer, and the pooler"
    assert torch.equal(after["classifier.weight"], before["classifier.weight"])
    for name in integers:
        scale = after[f"{name}_scale"]
        assert (after[name].float() * scale - before[name]).abs().max() <= scale.max() / 2 + 1e-7
        assert after[name].abs().amax(1).tolist() == [127] * len(scale), "each channel uses its whole range"
    assert weight_bytes(small) < 0.5 * weight_bytes(base)
    assert (small / "tokenizer.json").exists()
    assert json.loads((small / "config.json").read_text())["quantization_config"]["ignore"] == ["classifier"]


def test_all_readers_answer_nearly_as_the_base(base: Path, small: Path) -> None:
    ids = torch.randint(200, (4, 24), generator=torch.Generator().manual_seed(1))
    theirs = transformers.BertForSequenceClassification.from_pretrained(small).eval()
    quick = load.opened(small, "bfloat16")
    plain = load.opened(base, "float32")
    with torch.inference_mode():
        wanted, read, fast = (model(input_ids=ids).logits for model in (plain, theirs, quick))
    spread = float(wanted.std())
    assert spread > 0.05
    assert float((read - wanted).abs().max()) < 0.15 * spread
    assert float((fast - wanted).abs().max()) < 0.15 * spread
    assert float((fast - wanted).abs().max()) > 0
    layers = [type(module).__module__ for module in quick.modules() if "quantized" in type(module).__module__]
    assert len(layers) >= 2 * 6 + 1
    assert isinstance(quick.classifier, torch.nn.Linear)


def test_the_files_weights_are_the_ones_that_compute(small: Path) -> None:
    quick, stored = load.opened(small, "float32"), tensors(small)
    name = "bert.encoder.layer.1.output.dense"
    weight = quick.get_submodule(name).weight().int_repr()
    assert torch.equal(weight, stored[f"{name}.weight"])


def test_files_that_lack_weights_are_refused(small: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    kept = {name: tensor for name, tensor in tensors(small).items() if name != "classifier.bias"}
    save_file(kept, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((small / "config.json").read_text())
    with pytest.raises(ValueError, match=r"do not fit: classifier\.bias"):
        load.opened(tmp_path, "float32")


def test_decoders_are_sent_to_the_schemes_that_serve_them(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=4)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    with pytest.raises(InputError, match=r"LlamaForCausalLM, which vLLM serves: set compress\.quantise"):
        dynamic.apply(tmp_path / "llama", tmp_path, Dynamic(), None, lambda *_: None)


def test_one_way_to_integers_is_enough() -> None:
    raw = {"kind": "compress", "name": "x", "model": {"source": "m"}, "compress": {"dynamic": {}}}
    recipes.validate(raw)
    with pytest.raises(RecipeError, match=r"compress\.quantise=null for an encoder"):
        recipes.validate(recipes.override(raw, ["compress.quantise.algorithm=rtn"]))


@pytest.mark.integration
def test_a_tuned_classifier_is_served_in_int8_once_it_is_proved(ray_session: None, tmp_path: Path) -> None:
    """Tuned, compressed, judged against the tuned one by its task, its size and its speed, and only then answering requests."""
    from serving import launch
    from tests.serving.tasks import tiny
    from tests.tasks import labelled
    from tests.train.staged import made

    labelled.bert(tmp_path / "bert")
    lines = [
        json.dumps({"text": f"{text['text']} {n}", "label": text["label"]}) for n in range(6) for text in SENTIMENTS
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines) + "\n")
    common = {"output": str(tmp_path)}
    data = {"examples": f"{tmp_path}/examples.jsonl", "validation_fraction": 0.3}
    task = {"name": "classification"}
    made(
        {
            "kind": "finetune", "name": "tuned", "data": data, "model": {"source": f"{tmp_path}/bert"}, "task": task,
            "optimizer": {"lr": 5e-3, "precision": "fp32"}, "batch": {"samples": 8}, "stop": {"steps": 30},
            "resources": {"micro_batch": 8}, **common,
        }
    )  # fmt: skip
    compress = {
        "kind": "compress",
        "name": "small",
        "model": {"source": "tuned"},
        "compress": {"dynamic": {}},
        **common,
    }
    compressed = made(compress)
    serve = {"kind": "serve", "name": "door", "model": {"source": "small"}, "serve": {"port": 0}, **common}
    with pytest.raises(InputError, match=r"model\.evaluation is not set, but 'small' is a compressed model"):
        launch.prepare(recipes.validate(serve))  # type: ignore[arg-type]

    judged = made(
        {
            "kind": "evaluate", "name": "scores", "model": {"source": "small", "base": "tuned"}, "data": data,
            "evaluate": {
                "engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": task,
                "speed": {"batches": [1, 4], "prompt_tokens": 16, "rounds": 2},
            },
            "gate": {"score_recovery": 90.0, "size_ratio": 0.95}, **common,
        }
    )  # fmt: skip
    figures = judged.metrics
    assert figures["passed"] is True
    assert figures["base_score"] > 90
    assert figures["size_ratio"] == compressed.metrics["size_ratio"] < 0.95
    assert figures["requests_per_second_4"] > 0
    assert figures["cpu_speedup_1"] > 0

    ready = launch.prepare(recipes.validate({**serve, "model": {"source": "small", "evaluation": "scores"}}))  # type: ignore[arg-type]
    [served] = ready.served
    assert (served.runner, served.tasks) == ("transformers", ("text-classification",))
    app = tiny.app(Path(served.model), *served.tasks, taught=served.taught)
    assert any("quantized" in type(module).__module__ for module in app.model.network.modules())
    texts = {each["text"]: each["label"] for each in map(json.loads, lines)}
    told = [most["label"] for most, *_ in tiny.ask(app, "text-classification", list(texts))]
    right = sum(answer == label for answer, label in zip(told, texts.values(), strict=True)) / len(texts)
    floats = tiny.app(tmp_path / "tuned" / "model", "text-classification", taught=served.taught)
    assert told == [most["label"] for most, *_ in tiny.ask(floats, "text-classification", list(texts))]
    assert right > 0.9
