"""The families' promises: as many weights as their names and papers say, heads that are served, objectives that fit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest

from manta.errors import InputError
from manta.models import families, formulas, presets
from manta.models.families import lstm
from manta.sections import model as section
from manta.sections.model import NewModel
from tests.models.samples import OBJECTIVES, config, on_meta

MOST = 150_000_000  # weights of models that are built here

# (preset, objective, vocabulary, weights) as published: GPT-2's releases, BERT's (Hugging Face's count of them), T5's,
# BART's; Llama 2 7B.
PUBLISHED = [
    ("gpt2-124m", "clm", 50257, 124_439_808),
    ("gpt2-355m", "clm", 50257, 354_823_168),
    ("gpt2-774m", "clm", 50257, 774_030_080),
    ("gpt2-1.5b", "clm", 50257, 1_557_611_200),
    ("bert-base", "nsp", 30522, 110_106_428),
    ("bert-large", "nsp", 30522, 336_226_108),
    ("t5-small", "denoising", 32128, 60_506_624),
    ("t5-base", "denoising", 32128, 222_903_552),
    ("t5-large", "denoising", 32128, 737_668_096),
    ("bart-base", "denoising", 50265, 139_420_416),
    ("bart-large", "denoising", 50265, 406_291_456),
    ("llama-7b", "clm", 32000, 6_738_415_616),
]


def small_presets() -> list[str]:
    return [name for name in presets.PRESETS if formulas.num_parameters(config(name, vocab=1000)) < MOST]


def test_the_vocabulary_of_recipes_names_every_family_and_preset() -> None:
    assert set(get_args(section.Preset)) == set(presets.PRESETS)
    assert set(get_args(section.Family)) == set(families.FAMILIES)
    for name, family in families.BY_NAME.items():
        assert family.default in family.presets, name


def test_what_trains_which() -> None:
    assert families.FAMILIES == {
        "llama": "decoder", "gpt2": "decoder", "bert": "encoder",
        "t5": "encoder_decoder", "bart": "encoder_decoder", "lstm": "decoder",
    }  # fmt: skip
    for family in families.BY_NAME.values():
        trained = {objective for objective, kinds in families.KINDS.items() if family.kind in kinds}
        # Nobody has a head for an LSTM that reads the whole text.
        assert set(family.architectures) == trained - ({"sequence_labels"} if family is lstm.FAMILY else set())


def test_families_and_formulas_load_no_torch() -> None:
    code = (
        "import sys; from manta.models import formulas, memory, presets; from manta.sections.model import NewModel\n"
        "for p in presets.PRESETS:\n"
        "    kind = presets.BY_NAME[presets.OF_PRESET[p]]\n"
        "    c = presets.config(NewModel(preset=p), 100, {}, next(iter(kind.architectures)))\n"
        "    memory.training(c, memory.Setting(64, 1, 2)), formulas.flops_per_token(c, 64), formulas.max_positions(c)\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("preset", small_presets())
def test_the_count_is_that_of_the_real_model(preset: str) -> None:
    objective = OBJECTIVES[presets.OF_PRESET[preset]]
    for chosen in ("mlm", "nsp") if objective == "mlm" else (objective,):
        settings = config(preset, chosen, vocab=1000)
        built = on_meta(settings, chosen)
        assert type(built).__name__ == settings["architectures"][0]
        assert formulas.num_parameters(settings) == sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.parametrize("preset", ["bert-tiny", "llama-tiny", "gpt2-tiny"])
def test_the_count_with_a_head_is_that_of_the_real_model(preset: str) -> None:
    family = families.BY_NAME[presets.OF_PRESET[preset]]
    named = {number: str(number) for number in range(7)}
    for head in sorted(families.HEADS.keys() & family.architectures.keys()):
        given = named if head != "spans" else {0: "start", 1: "end"}
        settings = {**config(preset, head, vocab=1000), "id2label": given}
        built = on_meta(settings, head)
        assert type(built).__name__ == settings["architectures"][0]
        assert formulas.num_parameters(settings) == sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.parametrize("preset", ["llama-tiny", "gpt2-tiny", "lstm-tiny"])
def test_untied_embeddings_are_counted(preset: str) -> None:
    settings = config(preset, tie_embeddings=False)
    built = on_meta(settings, "clm")
    assert built.get_input_embeddings().weight is not built.get_output_embeddings().weight
    assert formulas.num_parameters(settings) == sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.parametrize(("preset", "objective", "vocab", "weights"), PUBLISHED)
def test_the_count_is_the_published_one(preset: str, objective: str, vocab: int, weights: int) -> None:
    assert formulas.num_parameters(config(preset, objective, vocab=vocab)) == weights


@pytest.mark.parametrize(
    ("preset", "vocab", "about"),
    [
        ("llama-7m", 8192, 7e6),
        ("llama-30m", 16384, 30e6),
        ("llama-70m", 32768, 70e6),
        ("llama-135m", 49152, 134.5e6),
        ("llama-1b", 32000, 1.1e9),
        ("gpt2-7m", 8192, 7e6),
        ("lstm-10m", 8192, 10e6),
        ("lstm-60m", 16384, 60e6),
    ],
)
def test_presets_are_as_large_as_their_names(preset: str, vocab: int, about: float) -> None:
    assert formulas.num_parameters(config(preset, vocab=vocab)) == pytest.approx(about, rel=0.05)


@pytest.mark.parametrize("preset", [p for p in presets.PRESETS if not p.startswith("lstm")])
def test_heads_are_as_wide_as_kernels_and_the_serving_engine_need(preset: str) -> None:
    shape = formulas.shape(config(preset))
    for stack in (shape.main, shape.decoder or shape.main):
        assert stack.head_dim % 32 == 0 and stack.heads * stack.head_dim == stack.width


def test_the_family_says_the_preset_where_none_is_named() -> None:
    assert presets.preset(NewModel()) == "llama-7m"
    assert presets.preset(NewModel(family="bert")) == "bert-mini"
    assert presets.preset(NewModel(preset="t5-small")) == "t5-small"
    with pytest.raises(InputError, match=r"model\.preset = 'bert-tiny' is not of model\.family = 'gpt2'"):
        presets.preset(NewModel(family="gpt2", preset="bert-tiny"))


@pytest.mark.parametrize(
    ("sizes", "remedy"),
    [
        ({"preset": "llama-7m", "num_heads": 7}, "set model.num_heads to 8"),
        ({"preset": "llama-7m", "num_kv_heads": 3}, "set model.num_kv_heads=2"),
        ({"preset": "llama-7m", "num_heads": 4, "num_kv_heads": 8}, "set model.num_kv_heads=4"),
        ({"preset": "llama-7m", "hidden_size": 24}, "heads of even width: set model.num_heads to 6"),
        ({"preset": "gpt2-7m", "hidden_size": 200, "num_heads": 3}, "set model.num_heads to 2"),
        (
            {"preset": "gpt2-7m", "num_kv_heads": 2},
            "model.num_kv_heads = 2: models of the family gpt2 have no such size",
        ),
        ({"preset": "t5-tiny", "max_position_embeddings": 512}, "family t5 have no such size"),
        ({"preset": "bert-tiny", "tie_embeddings": False}, "family bert have no such size"),
        ({"preset": "lstm-tiny", "num_heads": 2}, "family lstm have no such size, but hidden_size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_a_remedy(sizes: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        presets.sizes(NewModel.model_validate(sizes))


@pytest.mark.parametrize(
    ("preset", "objective", "remedy"),
    [
        (
            "bert-tiny",
            "clm",
            "set objective.name to mlm or multi_mlm or nsp, or choose model.family of llama, gpt2, lstm",
        ),
        ("bart-tiny", "mlm", "set objective.name to denoising, or choose model.family of bert"),
        ("gpt2-tiny", "denoising", "set objective.name to clm or distillation, or choose model.family of t5, bart"),
    ],
)
def test_an_objective_that_does_not_train_the_family_is_refused(preset: str, objective: str, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        config(preset, objective)
