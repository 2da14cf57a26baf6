"""How many weights move, by formula from config.json: the same number as on the adapted model itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from manta import adapt
from manta.adapt import counting
from manta.sections.adapt import Freeze, Lora
from tests.adapt.adaptable import CLASSES, FITTING, METHODS, config, make


def counted(name: str, settings: object) -> int:
    model = adapt.apply(make(name), settings)  # type: ignore[arg-type]
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("name", "method"), FITTING)
def test_the_formula_counts_what_moves(name: str, method: str) -> None:
    assert counting.moving(config(name), METHODS[method]) == counted(name, METHODS[method])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_so_it_does_for_any_number_of_frozen_layers(name: str, layers: int) -> None:
    settings = Freeze(method="freeze", freeze_layers=layers)
    assert counting.moving(config(name), settings) == counted(name, settings)


def test_targets_of_the_recipe_count() -> None:
    settings = Lora(method="lora", rank=3, targets=["mlp.c_proj", "c_fc"])
    assert counting.moving(config("gpt2"), settings) == 3 * 3 * 2 * (32 + 48)
    assert counting.moving(config("gpt2"), settings) == counted("gpt2", settings)


def test_other_types_are_counted_on_the_model_without_its_memory() -> None:
    """Qwen 2: 2 layers of q and v, as peft has it; keys and values of one head of 8."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1}  # fmt: skip
    qwen = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 96, **sizes}
    assert counting.moving(qwen, Lora(method="lora", rank=5)) == 2 * 5 * (32 + 32 + 32 + 8)


def test_counting_loads_no_heavy_library() -> None:
    code = (
        "import sys; from manta.adapt import counting; from manta.sections.adapt import Lora; "
        "print(counting.moving({'model_type': 'gpt2', 'n_embd': 8, 'n_head': 2, 'n_layer': 1, 'n_positions': 4, 'vocab_size': 9}, "
        "Lora(method='lora', rank=1))); print(sorted({'torch', 'peft', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == [str(8 + 24), "[]"]
