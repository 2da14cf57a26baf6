"""Each optimizer against values worked out by hand and against torch's own, and all of them under ZeRO."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from manta.errors import InputError
from manta.sections.optimisation import OWN, Optimizer
from manta.train import optimizers, updates
from manta.train.engine import to_universal
from tests.train.under_deepspeed import Under, lone_process, model, plain, settings

torch.set_num_threads(1)


# --- settings --------------------------------------------------------------------------------------------------------


def test_adamw_is_what_it_was() -> None:
    made = Optimizer()
    assert (made.name, made.lr, made.betas, made.eps) == ("adamw", 1.0e-3, [0.9, 0.95], 1.0e-8)
    assert (made.weight_decay, made.grad_clip, made.precision) == (0.1, 1.0, "bf16")


@pytest.mark.parametrize("name", OWN)
def test_a_resolved_recipe_is_accepted_again(name: str) -> None:
    made = Optimizer.model_validate({"name": name})
    assert Optimizer.model_validate(made.model_dump()) == made
    assert {key for key in ("betas", "eps", "momentum", "nesterov") if getattr(made, key) is not None} == set(OWN[name])


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"name": "sgd", "betas": [0.9, 0.95]}, r"sgd does not read optimizer\.betas .* leave it out"),
        ({"name": "lion", "eps": 1e-8}, r"lion does not read optimizer\.eps = 1e-08: .*=adamw or adam or muon"),
        ({"momentum": 0.9}, r"adamw does not read optimizer\.momentum = 0\.9: .*=sgd or muon"),
        ({"betas": None}, r"optimizer\.betas = None: adamw needs it"),
        ({"name": "sgd", "nesterov": True, "momentum": 0.0}, r"set optimizer\.momentum=0\.9"),
        ({"name": "adamx"}, "should be 'adamw'"),
        ({"name": []}, "should be 'adamw'"),
    ],
)
def test_settings_that_an_optimizer_does_not_read_are_refused(given: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Optimizer.model_validate(given)


# --- groups ----------------------------------------------------------------------------------------------------------


def architecture(kind: str) -> Any:
    import transformers as hf

    with torch.device("meta"):
        if kind == "gpt2":
            return hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=11))
        if kind == "bert":
            sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 11}
            return hf.BertForMaskedLM(hf.BertConfig(num_hidden_layers=3, **sizes))
        assert kind == "t5"
        sizes = {"d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 16, "vocab_size": 11}
        return hf.T5ForConditionalGeneration(hf.T5Config(num_layers=2, num_decoder_layers=3, **sizes))


@pytest.mark.parametrize(
    ("kind", "layers", "expected"),
    [
        ("gpt2", 3, {"transformer.wpe.weight": 0, "transformer.h.0.attn.c_attn.weight": 1, "transformer.h.2.ln_1.bias": 3, "transformer.ln_f.weight": 4}),
        ("bert", 3, {"bert.embeddings.LayerNorm.weight": 0, "bert.encoder.layer.0.output.dense.bias": 1, "cls.predictions.transform.dense.weight": 4}),
        (
            "t5",
            5,
            {
                "shared.weight": 0,
                "encoder.block.1.layer.1.DenseReluDense.wi.weight": 2,
                "encoder.final_layer_norm.weight": 2,
                "decoder.block.0.layer.0.SelfAttention.q.weight": 3,
                "decoder.block.2.layer.2.layer_norm.weight": 5,
                "decoder.final_layer_norm.weight": 6,
            },
        ),
    ],
)  # fmt: skip
def test_depth_is_read_from_names(kind: str, layers: int, expected: dict[str, int]) -> None:
    found = optimizers.depths(name for name, _ in architecture(kind).named_parameters())
    assert found.layers == layers and found.above == layers + 1
    assert {name: found.of[name] for name in expected} == expected


def names_in(module: Any, groups: list[dict[str, Any]]) -> list[set[str]]:
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [{name_of[id(parameter)] for parameter in group["params"]} for group in groups]


def test_matrices_decay_and_vectors_do_not() -> None:
    module = model()
    decaying, plain_ones = names_in(module, made := optimizers.groups(module, Optimizer()))
    assert [group["weight_decay"] for group in made] == [0.1, 0.0]
    assert plain_ones == {name for name, p in module.named_parameters() if "norm" in name}
    assert decaying | plain_ones == dict(module.named_parameters()).keys()


def test_tables_may_be_left_undecayed() -> None:
    module = model()
    _, plain_ones = names_in(module, optimizers.groups(module, Optimizer(decay_embeddings=False)))
    assert "model.embed_tokens.weight" in plain_ones


def test_frozen_weights_are_in_no_group() -> None:
    module = model()
    module.model.embed_tokens.weight.requires_grad_(False)
    assert "model.embed_tokens.weight" not in set().union(
        *names_in(module, optimizers.groups(module, Optimizer(layer_lr_decay=0.5)))
    )


def test_rates_by_layer() -> None:
    """Two layers: the embeddings two below the top one, the last norm at the full rate like the top layer."""
    module = model()
    made = optimizers.groups(module, Optimizer(layer_lr_decay=0.5))
    assert [(group["depth"], group["weight_decay"], group["lr_scale"]) for group in made] == [
        (0, 0.1, 0.25), (1, 0.1, 0.5), (1, 0.0, 0.5), (2, 0.1, 1.0), (2, 0.0, 1.0), (3, 0.0, 1.0),
    ]  # fmt: skip
    names = names_in(module, made)
    assert names[0] == {"model.embed_tokens.weight"} and names[5] == {"model.norm.weight"}
    assert all(".layers.0." in name for name in names[1] | names[2])
    optimizers.set_rates(made, 0.8, lowest=2)
    assert [group["lr"] for group in made] == [0.0, 0.0, 0.0, 0.8, 0.8, 0.8]
    optimizers.set_rates(made, 0.8)
    assert [group["lr"] for group in made] == pytest.approx([0.2, 0.4, 0.4, 0.8, 0.8, 0.8])


def test_muon_takes_the_matrices_of_the_layers_alone() -> None:
    module = model()
    made = optimizers.groups(module, Optimizer(name="muon"))
    chosen = set().union(*(names for names, group in zip(names_in(module, made), made, strict=True) if group["muon"]))
    assert chosen == {n for n, p in module.named_parameters() if p.ndim == 2 and ".layers." in n}


# --- two steps by hand -----------------------------------------------------------------------------------------------


def two_steps(chosen: Optimizer, weights: torch.Tensor, gradients: list[torch.Tensor], **group: Any) -> torch.Tensor:
    parameter = torch.nn.Parameter(weights.clone())
    groups = [{"params": [parameter], "weight_decay": chosen.weight_decay, "lr_scale": 1.0, **group}]
    optimizer = optimizers.make(groups, chosen)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # m: 0.5, 0.9 * 0.5 - 0.25 = 0.2
        ({"name": "sgd"}, 1 - 0.1 * 0.5 - 0.1 * 0.2),
        # g + 0.9 m: 0.95, -0.07
        ({"name": "sgd", "nesterov": True}, 1 - 0.1 * 0.95 + 0.1 * 0.07),
        # g with decay: 0.6, -0.25 + 0.094 = -0.156; m: 0.6, 0.384
        ({"name": "sgd", "weight_decay": 0.1}, 0.94 - 0.1 * 0.384),
        # m: 0.05, 0.02 (/ 0.19); v: 0.0125, 0.015 (/ 0.0975)
        ({"name": "adam", "eps": 1e-12}, 0.9 - 0.1 * (0.02 / 0.19) / math.sqrt(0.015 / 0.0975)),
        ({"name": "adamw", "eps": 1e-12}, 0.89 * 0.99 - 0.1 * (0.02 / 0.19) / math.sqrt(0.015 / 0.0975)),
        ({"name": "muon", "eps": 1e-12}, 0.89 * 0.99 - 0.1 * (0.02 / 0.19) / math.sqrt(0.015 / 0.0975)),
        # g with decay: 0.6, -0.16; m: 0.06, 0.038; v: 0.018, 0.01838
        ({"name": "adam", "eps": 1e-12, "weight_decay": 0.1}, 0.9 - 0.1 * 0.2 / math.sqrt(0.01838 / 0.0975)),
        # signs: 0.1 * 0.5 > 0, 0.9 * 0.005 - 0.1 * 0.25 < 0
        ({"name": "lion"}, (1 * 0.99 - 0.1) * 0.99 + 0.1),
    ],
)
def test_against_values_by_hand(given: dict[str, Any], expected: float) -> None:
    """p = 1, gradients 0.5 and -0.25, a rate of 0.1."""
    gradients = [torch.tensor([0.5]), torch.tensor([-0.25])]
    found = two_steps(Optimizer.model_validate({"lr": 0.1, **given}), torch.tensor([1.0]), gradients)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def quintic(value: float) -> float:
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


def test_muon_against_a_value_by_hand() -> None:
    """Gradients 3 I and -I: both directions are multiples of I, whose entries are 1/sqrt(2) at norm 1.

    u = g + 0.95 m: 5.85, then m = 1.85 and u = 0.7575: the same direction twice. Steps of 0.2 * sqrt(2) * lr.
    """
    chosen = Optimizer(name="muon", lr=0.1, weight_decay=0.5)
    found = two_steps(chosen, torch.ones(2, 2), [3 * torch.eye(2), -torch.eye(2)], muon=True)
    step = 0.1 * 0.2 * math.sqrt(2) * quintic(1 / math.sqrt(2))
    diagonal, beside = (1 * 0.95 - step) * 0.95 - step, 0.95**2
    assert found.tolist() == [pytest.approx([diagonal, beside]), pytest.approx([beside, diagonal])]


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12), (3, 4, 9)])
def test_orthogonal_keeps_singular_vectors_and_sets_their_values(shape: tuple[int, ...]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(given.double(), full_matrices=False)
    values = values / values.norm(dim=-1, keepdim=True)
    expected = (
        left * torch.tensor([quintic(float(v)) for v in values.flatten()]).view_as(values)[..., None, :]
    ) @ right
    assert torch.allclose(updates.orthogonal(given).double(), expected, atol=1e-4)


# --- against torch's own ---------------------------------------------------------------------------------------------


def small_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Tanh(), torch.nn.Linear(10, 6))


def run(module: torch.nn.Module, optimizer: Any, steps: range) -> list[torch.Tensor]:
    for step in steps:
        rows = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (module(rows) - rows.flip(1)).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in module.parameters()]


def muon_groups(module: torch.nn.Module, decay: float = 0.1) -> list[dict[str, Any]]:
    halves = [(p for p in module.parameters() if p.ndim == 2), (p for p in module.parameters() if p.ndim == 1)]
    return [
        {"params": list(half), "muon": muon, "weight_decay": decay}
        for half, muon in zip(halves, (True, False), strict=True)
    ]


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs_but_for_its_precision(nesterov: bool) -> None:
    """torch.optim.Muon multiplies in bfloat16; ours in float32 here, so they agree to two digits."""
    ours, theirs = small_net(), small_net()
    mine = run(ours, updates.Muon(muon_groups(ours), 0.02, (0.9, 0.95), 1e-8, 0.95, nesterov), range(4))
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    muon = torch.optim.Muon(
        matrices, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=nesterov, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [p for p in theirs.parameters() if p.ndim == 1], lr=0.02, betas=(0.9, 0.95), weight_decay=0.1
    )

    class Both:
        def zero_grad(self) -> None:
            muon.zero_grad(), adamw.zero_grad()

        def step(self) -> None:
            muon.step(), adamw.step()

    for a, b, first in zip(mine, run(theirs, Both(), range(4)), small_net().parameters(), strict=True):
        assert float((a - b).norm()) < 0.02 * float((a - first.detach()).norm())


def test_the_other_half_of_muon_is_adamw_to_the_bit() -> None:
    ours, theirs = small_net(), small_net()
    groups = [{"params": list(ours.parameters()), "muon": False, "weight_decay": 0.1}]
    mine = run(ours, updates.Muon(groups, 0.02, (0.9, 0.95), 1e-8, 0.95, True), range(4))
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.02, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    assert all(torch.equal(a, b) for a, b in zip(mine, run(theirs, adamw, range(4)), strict=True))


def test_equal_matrices_are_made_orthogonal_together_and_apart_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.empty(3, 4), torch.empty(4, 3), torch.empty(3, 4), torch.empty(3, 4)]
    assert list(updates._alike(tensors)) == [[0, 2, 3], [1]]
    monkeypatch.setattr(updates, "STACKED", 24)
    assert list(updates._alike(tensors)) == [[0, 2], [3], [1]]


def named(name: str, module: torch.nn.Module) -> Any:
    groups = muon_groups(module)
    if name != "muon":
        groups = [{key: value for key, value in group.items() if key != "muon"} for group in groups]
    return optimizers.make(groups, Optimizer.model_validate({"name": name, "lr": 0.01}))


@pytest.mark.parametrize("name", ["lion", "muon"])
def test_a_saved_state_carries_on_to_the_bit(name: str) -> None:
    whole, first, second = small_net(), small_net(), small_net()
    expected = run(whole, named(name, whole), range(4))
    optimizer = named(name, first)
    run(first, optimizer, range(2))
    second.load_state_dict(first.state_dict())
    resumed = named(name, second)
    resumed.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(second, resumed, range(2, 4)), expected, strict=True))


@pytest.mark.parametrize("name", OWN)
def test_a_held_step_changes_nothing(name: str) -> None:
    module, untouched = small_net(), small_net()
    optimizer = named(name, module)
    hold = optimizers.Hold(optimizer)
    before = run(module, optimizer, range(2))
    hold.on = True
    assert all(torch.equal(a, b) for a, b in zip(run(module, optimizer, range(7, 9)), before, strict=True))
    hold.on = False
    expected = run(untouched, named(name, untouched), range(3))
    assert all(torch.equal(a, b) for a, b in zip(run(module, optimizer, range(2, 3)), expected, strict=True))


# --- under ZeRO ------------------------------------------------------------------------------------------------------


def test_what_is_refused_says_why_and_what_to_do() -> None:
    with pytest.raises(InputError, match=r"'muon' .* resources\.zero_stage = 1: .* set resources\.zero_stage=0, or"):
        optimizers.check("muon", 1)
    with pytest.raises(InputError, match=r"'lion': .*adamw and adam alone: set resources\.workers=4"):
        optimizers.check_resharding("lion", 4)
    optimizers.check("muon", 0)
    optimizers.check_resharding("adam", 4)
    assert optimizers.SUPPORTED.keys() == {(name, stage) for name in OWN for stage in range(4)}


@pytest.fixture(scope="module")
def group_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


WORKING = [key for key, reason in optimizers.SUPPORTED.items() if not reason]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "stage"), WORKING)
def test_what_is_supported_steps_like_plain_torch_and_resumes(
    name: str, stage: int, group_of_one: None, tmp_path: Path
) -> None:
    chosen = settings(name)
    whole = Under(chosen, stage)
    losses = [whole.step(step) for step in range(4)]
    assert losses == pytest.approx(plain(chosen, 4), rel=1e-5)
    first = Under(chosen, stage)
    for step in range(2):
        first.step(step)
    first.save(tmp_path)
    second = Under(chosen, stage)
    second.load(tmp_path)
    assert [second.step(step) for step in range(2, 4)] == losses[2:]


@pytest.mark.integration
def test_muon_is_rightly_refused(group_of_one: None) -> None:
    """On flat parts it would step without a word, but somewhere else."""
    chosen = settings("muon", lr=1e-2)
    under = Under(chosen, 1)
    losses = [under.step(step) for step in range(4)]
    assert losses != pytest.approx(plain(chosen, 4), rel=1e-3)


@pytest.mark.integration
@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "bf16")])
def test_a_step_is_left_out_under_every_stage(stage: int, precision: str, group_of_one: None) -> None:
    """Held at the first step and later, with gradients a hundred times too large: as if they had never come."""
    chosen = settings("adamw", precision=precision)
    straight, held = Under(chosen, stage), Under(chosen, stage)
    expected = [straight.step(step) for step in range(3)]
    found = []
    for step in range(3):
        held.hold.on = True
        held.step(90 + step, scale=100.0)
        held.hold.on = False
        found.append(held.step(step))
    assert found == expected


@pytest.mark.integration
def test_holding_while_deepspeed_starts_spares_the_first_steps_a_wrong_correction(group_of_one: None) -> None:
    """With bf16 and stage 0 it steps once with empty gradients, after which Adam's first real steps are too short."""
    zero, one = (Under(settings("adamw", precision="bf16"), stage) for stage in (0, 1))
    assert [zero.step(step) for step in range(3)] == [one.step(step) for step in range(3)]


@pytest.mark.integration
@pytest.mark.parametrize("stage", [1, 3])
def test_a_converted_checkpoint_carries_on_like_any_other(stage: int, group_of_one: None, tmp_path: Path) -> None:
    chosen = settings("adamw", lr=1e-2)
    under = Under(chosen, stage)
    for step in range(3):
        under.step(step)
    under.save(tmp_path)
    to_universal(tmp_path / "saved", tmp_path / "universal")
    other = Under(chosen, stage, universal=True)
    other.load(tmp_path, "universal")
    assert [other.step(step) for step in (3, 4)] == [under.step(step) for step in (3, 4)]
