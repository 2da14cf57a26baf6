"""Loading: what was saved comes back, heads that lack are new and said so, what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from manta.artifact import Resolved
from manta.errors import InputError
from manta.models import formulas
from manta.models.load import load, model_config, model_folder
from tests.models.samples import OBJECTIVES, inputs, tiny


def silent(note: str) -> None:
    raise AssertionError(f"nothing is new here: {note}")


@pytest.mark.parametrize("family", list(OBJECTIVES))
def test_saved_and_loaded_models_give_equal_logits(family: str, tmp_path: Path) -> None:
    made = tiny(family).eval()
    made.save_pretrained(tmp_path)
    loaded = load(tmp_path, objective=OBJECTIVES[family], note=silent).eval()
    assert type(loaded) is type(made)
    with torch.no_grad():
        assert torch.equal(made(**inputs(family)).logits, loaded(**inputs(family)).logits)
    assert formulas.num_parameters(model_config(str(tmp_path))) == loaded.num_parameters()
    assert load(tmp_path, "bf16", OBJECTIVES[family], note=silent).dtype == torch.bfloat16


def test_loading_finds_the_model_of_an_artifact_and_of_a_directory(tmp_path: Path) -> None:
    made = tiny("llama")
    made.save_pretrained(tmp_path / "model")
    for kind, path in (("pretrain", tmp_path), ("directory", tmp_path / "model")):
        with model_folder(Resolved("model.source", "x", kind, str(path), "f", "c")) as folder:
            loaded = load(folder)
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), loaded.parameters(), strict=True))


def test_a_head_for_pairs_that_lacks_is_new_alike_on_all_workers_and_said_so(tmp_path: Path) -> None:
    made = tiny("bert")
    made.save_pretrained(tmp_path)
    said: list[str] = []
    torch.manual_seed(1)
    first = load(tmp_path, objective="nsp", seed=3, note=said.append)
    torch.manual_seed(2)
    second, other = (load(tmp_path, objective="nsp", seed=seed, note=said.append) for seed in (3, 4))
    new = [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    ]
    assert said == [f"BertForPreTraining starts with new weights for objective.name = 'nsp': {', '.join(new)}"] * 3
    states = [model.state_dict() for model in (first, second, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0][new[-1]], states[2][new[-1]])
    assert float(states[0][new[1]].std()) == pytest.approx(0.02, rel=0.05)
    kept = made.state_dict()
    assert all(torch.equal(kept[name], states[0][name]) for name in kept)


def test_both_heads_load_as_they_are_and_the_one_for_pairs_may_be_left(tmp_path: Path) -> None:
    made = tiny("bert", objective="nsp")
    made.save_pretrained(tmp_path)
    again = load(tmp_path, objective="nsp", note=silent).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in made.state_dict().items())
    masked = load(tmp_path, objective="mlm", note=silent)
    assert type(masked).__name__ == "BertForMaskedLM"
    assert (
        formulas.num_parameters({**masked.config.to_dict(), "architectures": ["BertForMaskedLM"]})
        == masked.num_parameters()
    )


def test_a_body_without_any_head_gets_one(tmp_path: Path) -> None:
    made = tiny("bert")
    made.bert.save_pretrained(tmp_path)
    said: list[str] = []
    loaded = load(tmp_path, objective="mlm", note=said.append)
    assert len(said) == 1 and "cls.predictions.transform.dense.weight" in said[0]
    assert torch.equal(loaded.bert.embeddings.word_embeddings.weight, made.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize(
    ("family", "objective"), [("bert", "clm"), ("t5", "clm"), ("bart", "mlm"), ("lstm", "denoising")]
)
def test_a_source_that_the_objective_does_not_train_is_refused(family: str, objective: str, tmp_path: Path) -> None:
    tiny(family).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=f"objective.name = '{objective}' trains .* a model of type '{family}' is no such"
    ):
        load(tmp_path, objective=objective)


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "lstm"])
def test_a_directory_that_is_not_whole_is_refused(family: str, tmp_path: Path) -> None:
    tiny(family).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(
        name
        for name in weights
        if weights[name].ndim == 2 and "embed" not in name and "shared" not in name and "cls" not in name
    )
    weights.pop(lost)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"lacks 1 weights of its own config.json, {lost}"):
        load(tmp_path, objective=OBJECTIVES[family])


def test_an_output_layer_of_t5_that_is_its_own_is_counted(tmp_path: Path) -> None:
    """T5 v1.1 as it is published: not tied."""
    made = tiny("t5")
    made.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.lm_head.weight))
    made.config.tie_word_embeddings = False
    weights = {name: value.clone() for name, value in made.state_dict().items() if "embed_tokens" not in name}
    made.config.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load(tmp_path, objective="denoising", note=silent)
    assert not torch.equal(loaded.lm_head.weight, loaded.shared.weight)
    assert formulas.num_parameters(model_config(str(tmp_path))) == loaded.num_parameters()
