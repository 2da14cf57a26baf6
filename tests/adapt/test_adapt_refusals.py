"""What does not fit a model, a method or each other is refused with a remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from manta import adapt
from manta import recipe as recipes
from manta.errors import InputError, RecipeError
from manta.sections.adapt import Adapt, Freeze, Full, Ia3, Lora, Prefix
from tests.adapt import adaptable
from tests.adapt.adaptable import METHODS, inputs, make

RECIPE: dict[str, Any] = {
    "kind": "finetune",
    "name": "tuned",
    "data": {"examples": "shards"},
    "model": {"source": "base"},
    "task": {"name": "chat"},
    "batch": {"samples": 8},
    "stop": {"steps": 3},
}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method": "full", "rank": 4}, r"adapt.rank = 4: .* leave it out, or set adapt.method=lora or dora"),
        ({"method": "prompt", "merge": True}, r"adapt.merge = True: .* set adapt.method=lora or dora or ia3"),
        ({"method": "lor"}, "adapt.method = 'lor': choose .* did you mean 'lora'"),
        ({"rank": 4}, "adapt.method: missing"),
        ({"method": "lora", "targets": []}, r"adapt.targets = \[\]"),
        ({"method": "freeze", "freeze_layers": "most"}, "adapt.freeze_layers = 'most': choose 'all'"),
        ({"method": "ia3", "targets": ["wo"]}, "set both adapt.targets and adapt.feedforward"),
        ({"method": "ia3", "targets": ["k"], "feedforward": ["wo"]}, r"adapt.feedforward = \['wo'\]: .* add them"),
    ],
)
def test_settings_of_another_method_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipes.validate({**RECIPE, "adapt": section})


def test_without_a_section_every_weight_moves() -> None:
    made = recipes.validate(RECIPE)
    assert isinstance(made, recipes.Recipe)
    assert recipes.resolved(made)["adapt"] == {"method": "full"}
    assert Full(method="full").model_dump() == {"method": "full"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("llama", Freeze(method="freeze", freeze_layers=4), "adapt.freeze_layers = 4, but the model has 3 layers: set it to at most 3"),
        ("t5", Freeze(method="freeze", freeze_layers=6), "the model has 5 layers"),
        ("llama", Freeze(method="freeze", freeze_layers="all"), "LlamaForCausalLM answers without one: set it to a number below 3"),
        ("llama", Lora(method="lora", targets=["q_prj"]), r"adapt.targets = \['q_prj'\]: .* it has .*q_proj"),
        ("gpt2", Lora(method="lora", targets=["lm_head"]), r"adapt.targets = \['lm_head'\]"),
        ("bert-texts", Lora(method="lora", targets=["classifier"]), r"adapt.targets = \['classifier'\]"),
        ("llama", METHODS["bitfit"], "trains biases, and a model of type 'llama' has none: set adapt.method=ia3"),
        ("t5", METHODS["bitfit"], "a model of type 't5' has none"),
        ("gpt2-texts", METHODS["prompt"], "finds the end of a text by its tokens.* set adapt.method=prefix or lora"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused(name: str, settings: Adapt, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapt.apply(make(name), settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (METHODS["lora"], "adapt.targets = None: for models of type 'lstm' .* none"),
        (Lora(method="lora", targets=["q_proj"]), "it has none: set adapt.method=full or freeze"),
        (METHODS["ia3"], "adapt.targets = None: for models of type 'lstm'"),
        (METHODS["prefix"], "cannot take: set adapt.method=full or freeze"),
    ],
)
def test_an_lstm_takes_what_needs_no_attention(settings: Adapt, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapt.apply(lstm(), settings)
    model = adapt.apply(lstm(), Freeze(method="freeze", freeze_layers=1))
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "model.embed_tokens.weight" in still
    assert {name for name in still if ".layers." in name} == {name for name in dict(model.named_parameters()) if ".layers.0." in name}  # fmt: skip


def lstm() -> Any:
    from manta.models import build, presets
    from manta.sections.model import NewModel

    return build.build(presets.config(NewModel(preset="lstm-tiny"), 64, {}), seed=0)


def test_types_that_nobody_listed_are_asked_for_their_layers() -> None:
    """Of OPT peft knows the targets of LoRA; of a type that it does not know, layers must be named."""
    from transformers import CTRLConfig, CTRLLMHeadModel, OPTConfig, OPTForCausalLM

    opt = OPTForCausalLM(OPTConfig(vocab_size=96, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=64))  # fmt: skip
    model = adapt.apply(opt, Lora(method="lora"))
    assert {name.split(".lora_A.")[0].rpartition(".")[2] for name in model.state_dict() if ".lora_A." in name} == {"q_proj", "v_proj"}  # fmt: skip
    frozen = adapt.apply(model.unload(), Freeze(method="freeze", freeze_layers=1))
    moving = {name for name, parameter in frozen.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("model.decoder.layers.1.", "model.decoder.final_layer_norm")) for name in moving), (
        moving
    )
    ctrl = CTRLLMHeadModel(CTRLConfig(vocab_size=96, n_positions=32, n_embd=32, dff=48, n_layer=2, n_head=4))
    with pytest.raises(
        InputError, match=r"adapt.targets = None: for models of type 'ctrl' .* all-linear, or to some of .*Wq"
    ):
        adapt.apply(ctrl, Lora(method="lora"))
    with pytest.raises(InputError, match=r"set adapt.targets and adapt.feedforward from .*Wq"):
        adapt.apply(ctrl, Ia3(method="ia3"))
    adapt.apply(ctrl, Lora(method="lora", targets="all-linear"))


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_rows_that_leave_no_room_before_them_are_refused(method: str) -> None:
    model = adapt.apply(make("llama"), METHODS[method])
    model(input_ids=torch.zeros(1, 59, dtype=torch.long))
    with pytest.raises(
        InputError, match=r"adapt.tokens = 5 and a row of 60 tokens exceed the model's 64 positions: lower"
    ):
        model(input_ids=torch.zeros(1, 60, dtype=torch.long))


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_rows_of_several_documents_are_refused(method: str) -> None:
    model = adapt.apply(make("llama"), METHODS[method])
    with pytest.raises(InputError, match=r"a row holds several: set adapt.method=lora"):
        model(**inputs("llama"), position_ids=torch.arange(6).repeat(2, 2))


def test_a_prefix_would_be_forgotten_by_recomputation() -> None:
    model = adapt.apply(make("llama"), Prefix(method="prefix", tokens=3))
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(InputError, match=r"resources.activation_checkpointing = True forgets .* adapt.method=prompt"):
        model(**inputs("llama"))
    again = adapt.apply(make("llama"), METHODS["prompt"])
    again.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    adaptable.train(again, "llama", steps=1)
