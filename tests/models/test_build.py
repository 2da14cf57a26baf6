"""Building: the same weights everywhere, deviations as the papers have them, special ids, any configuration."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from manta.errors import InputError
from manta.models import formulas, presets
from manta.models.build import build
from manta.recipe import input_refs
from manta.sections.model import NewModel
from tests.models.samples import OBJECTIVES, SPECIAL, VOCAB, config, inputs, tiny

FAMILIES = list(OBJECTIVES)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_depend_on_the_seed_alone(family: str) -> None:
    torch.manual_seed(1)
    first = dict(tiny(family, seed=7).named_parameters())
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second, other = (dict(tiny(family, seed=seed).named_parameters()) for seed in (7, 8))
    assert torch.equal(before, torch.random.get_rng_state())  # building disturbs nobody's random numbers
    assert all(torch.equal(first[name], second[name]) for name in first)
    matrices = [name for name in first if first[name].ndim == 2]
    assert matrices and not any(torch.equal(first[name], other[name]) for name in matrices)


def expected(family: str, name: str, settings: dict[str, Any]) -> float:
    """The standard deviation that the family's paper or code gives a matrix at the start."""
    if family == "gpt2":
        return 0.02 / math.sqrt(2 * settings["n_layer"]) if name.endswith("c_proj.weight") else 0.02
    if family == "lstm":  # uniform in +-a has deviation a / sqrt(3)
        return (0.1 if "embed" in name else settings["hidden_size"] ** -0.5) / math.sqrt(3)
    if family != "t5":
        return 0.02
    width, inner, head_dim = settings["d_model"], settings["d_ff"], settings["d_kv"]
    if name.endswith("Attention.q.weight"):
        return float((width * head_dim) ** -0.5)
    if name.endswith("wo.weight"):
        return float(inner**-0.5)
    if "relative" in name or name.endswith((".k.weight", ".v.weight", ".o.weight", "wi.weight")):
        return float(width**-0.5)  # heads * d_kv is the width here, so that o has it too
    return 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_deviations(family: str) -> None:
    settings = config(f"{family}-tiny", vocab=1500)
    model = build(settings, 0, OBJECTIVES[family])
    assert model.dtype == torch.float32
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if values.ndim == 2 and values.numel() >= 4096:
            if "word_embeddings" in name or (family == "bart" and "shared" in name):
                values = torch.cat([values[:2], values[3:]])  # that of the padding is 0
            assert float(values.std()) == pytest.approx(expected(family, name, settings), rel=0.05), name
            assert abs(float(values.mean())) < 5 * float(values.std()) / math.sqrt(values.numel()), name
        elif values.ndim == 1 and family != "lstm":
            norm = "norm" in name.lower() or ".ln_" in name
            assert torch.all(values == (1.0 if norm and name.endswith("weight") else 0.0)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_loss_is_that_of_guessing(family: str) -> None:
    """Near log(vocabulary). T5's first logits deviate by 1, so it starts about a nat above; without its scale
    they would deviate by the square root of the width.
    """
    model = tiny(family).eval()
    given = inputs(family, rows=8)
    labels = given["decoder_input_ids" if "decoder_input_ids" in given else "input_ids"]
    with torch.no_grad():
        logits = model(**given).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1))
    assert float(loss) == pytest.approx(math.log(VOCAB), abs=1.3 if family == "t5" else 0.15)


def test_special_ids_reach_the_model() -> None:
    for family in FAMILIES:
        made = tiny(family).config
        assert (made.bos_token_id, made.eos_token_id, made.pad_token_id) == (0, 1, 2), family
    assert tiny("t5").config.decoder_start_token_id == 2, "T5's decoder starts from the padding"
    assert tiny("bart").config.decoder_start_token_id == 1, "BART's from the end of text"
    assert tiny("bart").config.forced_eos_token_id == 1
    shifted = tiny("t5").prepare_decoder_input_ids_from_labels(labels=torch.tensor([[7, 8, 9]]))
    assert shifted.tolist() == [[2, 7, 8]]
    shifted = tiny("bart").prepare_decoder_input_ids_from_labels(labels=torch.tensor([[7, 8, 9]]))
    assert shifted.tolist() == [[1, 7, 8]]


def test_a_tokenizer_without_padding_fills_with_the_end_of_text() -> None:
    special = {**SPECIAL, "pad_token_id": None}
    for preset in ("t5-tiny", "bart-tiny"):
        made = presets.config(NewModel.model_validate({"preset": preset}), VOCAB, special, "denoising")
        assert (made["pad_token_id"], made["decoder_start_token_id"]) == (1, 1)


def test_overrides_reach_the_model() -> None:
    made = tiny("llama", num_layers=3, tie_embeddings=False)
    assert len(made.model.layers) == 3
    assert made.lm_head.weight is not made.model.embed_tokens.weight
    made = tiny("bart", num_layers=1, num_decoder_layers=3, dropout=0.25)
    assert (len(made.model.encoder.layers), len(made.model.decoder.layers)) == (1, 3)
    assert (made.model.encoder.dropout, made.model.encoder.layers[0].self_attn.dropout) == (0.25, 0.25)
    made = tiny("t5", num_layers=1, num_decoder_layers=3, dropout=0.25)
    assert (len(made.encoder.block), len(made.decoder.block), made.encoder.dropout.p) == (1, 3, 0.25)
    assert tiny("bert", dropout=0.25).bert.embeddings.dropout.p == 0.25
    assert tiny("gpt2", dropout=0.25).transformer.h[0].attn.attn_dropout.p == 0.25
    assert tiny("lstm", dropout=0.25).model.dropout.p == 0.25


@pytest.mark.parametrize("family", ["gpt2", "bert", "bart"])
def test_learnt_positions_end_where_the_configuration_says(family: str) -> None:
    model = tiny(family, max_position_embeddings=24).eval()
    assert formulas.max_positions(model.config.to_dict()) == 24
    model(**inputs(family, seq=24))
    with pytest.raises((IndexError, RuntimeError)):
        model(**inputs(family, seq=27))


@pytest.mark.parametrize("family", ["t5", "lstm"])
def test_relative_positions_and_states_have_no_end(family: str) -> None:
    assert formulas.max_positions(config(f"{family}-tiny")) is None
    assert tiny(family).eval()(**inputs(family, seq=700)).logits.isfinite().all()


# --- model.config ----------------------------------------------------------------------------------------------------

MISTRAL = {
    "model_type": "mistral", "vocab_size": 9, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "dtype": "bfloat16", "architectures": ["MistralModel"],
}  # fmt: skip
SIZES = {"d_model": 64, "num_layers": 2, "d_ff": 96, "num_heads": 4, "d_kv": 16}


def of(given: dict[str, Any] | str, objective: str = "clm") -> dict[str, Any]:
    return presets.config(NewModel(config=given), VOCAB, SPECIAL, objective)


@pytest.mark.parametrize(
    ("given", "objective", "name"),
    [
        (MISTRAL, "clm", "MistralForCausalLM"),
        ({"model_type": "mt5", **SIZES}, "denoising", "MT5ForConditionalGeneration"),
        ({"model_type": "ernie", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}, "nsp", "ErnieForPreTraining"),
        ({"model_type": "roberta", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}, "mlm", "RobertaForMaskedLM"),
        ({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2}, "clm", "GPT2LMHeadModel"),
    ],
)  # fmt: skip
def test_any_configuration_of_transformers_is_built(given: dict[str, Any], objective: str, name: str) -> None:
    settings = of(given, objective)
    model = build(settings, 0, objective)
    assert type(model).__name__ == name
    assert (model.config.vocab_size, model.config.eos_token_id, model.dtype) == (VOCAB, 1, torch.float32)
    assert formulas.num_parameters(settings) == sum(parameter.numel() for parameter in model.parameters())
    assert formulas.flops_per_token(settings, 64) > 6 * VOCAB


def test_a_configuration_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL))
    assert of(str(tmp_path / "config.json")) == of(MISTRAL)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        of(str(tmp_path / "config.json"))
    with pytest.raises(InputError, match="does not exist"):
        of(str(tmp_path / "other.json"))


def test_decoders_start_as_the_configuration_means() -> None:
    assert of({"model_type": "mt5", **SIZES}, "denoising")["decoder_start_token_id"] == 2
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    made = of({"model_type": "bart", "d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, **sizes}, "denoising")
    assert (made["decoder_start_token_id"], made["forced_eos_token_id"], made["pad_token_id"]) == (1, 1, 2)


@pytest.mark.parametrize(
    ("given", "objective", "remedy"),
    [
        ({"hidden_size": 64}, "clm", "does not say its model_type"),
        ({"model_type": "mistrel"}, "clm", "did you mean 'mistral'"),
        ({"model_type": "vit"}, "clm", "no language model of model_type = 'vit'"),
        ({"model_type": "roberta"}, "clm", "set objective.name to mlm or multi_mlm or nsp"),
        ({"model_type": "roberta"}, "nsp", "set objective.name=mlm, or choose model.family=bert"),
        (MISTRAL, "mlm", "trains encoders, and a model of type 'mistral' is no such"),
        ({"model_type": "gpt2", "n_embd": 65, "n_head": 4}, "clm", "must be divisible by num_heads"),
        ({"model_type": "gpt2", "n_embd": "wide"}, "clm", "expected int"),
        ({"model_type": "t5", "tie_word_embeddings": False, **SIZES}, "denoising", "set it to true"),
        ({**MISTRAL, "quantization_config": {"bits": 4}}, "clm", "take its quantization_config out"),
    ],
)
def test_configurations_that_cannot_be_trained_are_refused(given: dict[str, Any], objective: str, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        of(given, objective)


def test_a_configuration_stands_alone() -> None:
    with pytest.raises(ValidationError, match="write preset, num_layers into it, or leave config out"):
        NewModel.model_validate({"config": MISTRAL, "preset": "llama-7m", "num_layers": 3})
    again = NewModel.model_validate(NewModel(config=MISTRAL).model_dump(mode="json"))
    assert again == NewModel(config=MISTRAL), "a resolved recipe is a recipe"


def test_a_configuration_file_is_an_input_of_the_run() -> None:
    """So its content is part of what the run is; content that stands in the recipe is there already."""
    found = input_refs(NewModel(config="./config.json"), "model.")
    assert {role: (ref, marker.kinds) for role, (ref, marker) in found.items()} == {
        "model.config": ("./config.json", ("file",))
    }
    assert input_refs(NewModel(config=MISTRAL), "model.") == {}
