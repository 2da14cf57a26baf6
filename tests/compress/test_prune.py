"""Pruning: what does nothing is found and goes without a trace, sizes are rounded and told, and what cannot be cut is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.compress import prune
from manta.sections.prune import Prune

torch = pytest.importorskip("torch")

HIDDEN, INNER, HEADS, LAYERS, VOCAB = 64, 128, 4, 4, 96
ROWS = np.random.default_rng(0).integers(0, VOCAB, (6, 24)).astype(np.int32)


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "head_dim": 16}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, initializer_range=0.2, **sizes, **heads, **changes))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    special = {"bos_token_id": 0, "eos_token_id": 0}
    sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, initializer_range=0.2, **sizes, **special))


def bert() -> Any:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    return BertModel(BertConfig(vocab_size=VOCAB, initializer_range=0.2, num_attention_heads=HEADS, **sizes))


MAKERS: dict[str, Callable[[], Any]] = {"llama": llama, "gpt2": gpt2, "bert": bert}


@pytest.fixture(autouse=True)
def _steady() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pruned(model: Any, folder: Path, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """The model that the settings leave, loaded as anyone loads it, and the figures."""
    source, target = folder / "source", folder / "target"
    target.mkdir(parents=True)
    model.save_pretrained(source)
    figures = prune.apply(source, target, Prune(**settings), ROWS, lambda done, total: None)
    return type(model).from_pretrained(target, dtype="auto").eval(), figures


def outcome(model: Any) -> Any:
    """The logits, or what stands for them in a model without a head: (rows, seq, ...)."""
    with torch.no_grad():
        return model.eval()(input_ids=torch.from_numpy(ROWS).long())[0]


def silence(weights: dict[str, Any], parts: list[str], where: Any) -> None:
    """Set slices of parameters to zero: those whose names end with one of `parts`."""
    with torch.no_grad():
        for name, tensor in weights.items():
            if name.endswith(tuple(parts)):
                tensor[where] = 0.0


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["influence", "angle"])
@pytest.mark.parametrize(
    ("kind", "ends"),
    [("llama", ["o_proj.weight", "down_proj.weight"]), ("gpt2", ["c_proj.weight", "c_proj.bias"])],
)
def test_blocks_that_do_nothing_go_and_nothing_changes(tmp_path: Path, kind: str, ends: list[str], depth: str) -> None:
    model = MAKERS[kind]()
    blocks = model.base_model.get_submodule({"llama": "layers", "gpt2": "h"}[kind])
    for number in (1, 2):
        silence(dict(blocks[number].named_parameters()), ends, ...)
    smaller, figures = pruned(model, tmp_path, layers=0.5, depth=depth)
    assert figures == {"layers": 2, "layers_removed": [1, 2]}
    assert torch.allclose(outcome(smaller), outcome(model), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_loss_decides_one_block_after_the_other(tmp_path: Path, kind: str) -> None:
    """Against models that were made without the block, and the loss that Transformers itself reports."""
    model = MAKERS[kind]().eval()
    _, figures = pruned(model, tmp_path, layers=0.5, depth="loss")
    tokens = torch.from_numpy(ROWS).long()
    name = {"llama": "layers", "gpt2": "h"}[kind]
    gone: set[int] = set()
    for _ in range(2):
        losses = {}
        for number in set(range(LAYERS)) - gone:
            less = copy.deepcopy(model)
            blocks = [b for n, b in enumerate(getattr(less.base_model, name)) if n not in gone | {number}]
            setattr(less.base_model, name, torch.nn.ModuleList(blocks))
            less.config.num_hidden_layers = len(blocks)
            with torch.no_grad():
                losses[number] = float(less(input_ids=tokens, labels=tokens, use_cache=False).loss)
        gone.add(min(losses, key=losses.__getitem__))
    assert figures["layers_removed"] == sorted(gone)


def test_angles_find_a_run_where_influence_finds_single_blocks(tmp_path: Path) -> None:
    """Two blocks that undo each other: each changes much, both together nothing."""
    model = llama()
    blocks = model.base_model.layers
    for number in range(LAYERS):
        silence(dict(blocks[number].named_parameters()), ["o_proj.weight"], ...)
    silence(dict(blocks[0].named_parameters()), ["down_proj.weight"], ...)

    class Turned(torch.nn.Module):
        """A block that turns each token's vector by an angle."""

        def __init__(self, angle: float):
            super().__init__()
            self.angle = angle

        def forward(self, states: Any, **_: Any) -> Any:
            half = HIDDEN // 2
            cosine, sine = np.cos(self.angle), np.sin(self.angle)
            left, right = states[..., :half], states[..., half:]
            return torch.cat([cosine * left - sine * right, sine * left + cosine * right], dim=-1)

    from manta.compress.pruning import cutting, depth
    from manta.compress.pruning.anatomy import LLAMA

    blocks[1], blocks[2], blocks[3] = Turned(0.1), Turned(1.0), Turned(-1.0)
    loaded = cutting.Loaded(model.eval(), torch.float32, LLAMA)
    assert depth.angle(loaded, ROWS, 2, lambda done, total: None) == [2, 3]
    assert depth.influence(loaded, ROWS, 2, lambda done, total: None) == [0, 1]
    [cosines] = depth._cosines(loaded, ROWS, LAYERS, lambda done, total: None)
    assert cosines == pytest.approx((np.cos(0.1), 0.1 / np.pi), rel=1e-4)


# --- channels --------------------------------------------------------------------------------------------------------


def test_dead_channels_of_a_llama_go_and_nothing_changes(tmp_path: Path) -> None:
    model = llama()
    weights = dict(model.named_parameters())
    generator = np.random.default_rng(1)
    neurons, channels = (torch.from_numpy(generator.permutation(size)[: size // 2]) for size in (INNER, HIDDEN))
    silence(weights, ["down_proj.weight"], (slice(None), neurons))
    silence(weights, ["o_proj.weight"], (slice(None), slice(0, 32)))  # the first group: two heads of 16
    silence(weights, ["o_proj.weight", "down_proj.weight"], channels)
    silence(weights, ["embed_tokens.weight"], (slice(None), channels))
    before = outcome(model)
    smaller, figures = pruned(model, tmp_path, intermediate=0.5, heads=0.5, hidden=0.5, multiple=16)
    assert figures == {"intermediate_size": 64, "num_heads": 2, "num_kv_heads": 1, "hidden_size": 32}
    assert torch.allclose(outcome(smaller), before, atol=1e-3 * float(before.abs().max()))
    kept = np.setdiff1d(np.arange(HIDDEN), channels.numpy())
    old, new = (each.base_model.layers[3].self_attn for each in (model, smaller))
    assert torch.equal(new.q_proj.weight, old.q_proj.weight[32:, kept]), "heads that share keys go together"
    assert torch.equal(new.v_proj.weight, old.v_proj.weight[16:, kept])


def _centred(tensor: Any, alive: Any, dim: int) -> None:
    """Make what a layer adds to the stream mean nothing but over the channels that live, where it sums to zero."""
    with torch.no_grad():
        part = tensor.index_select(dim, alive)
        part = part - part.mean(dim, keepdim=True)
        tensor.zero_()
        tensor.index_copy_(dim, alive, part)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_dead_channels_of_models_that_take_means_go_and_nothing_changes(tmp_path: Path, kind: str) -> None:
    model = MAKERS[kind]()
    alive = torch.from_numpy(np.sort(np.random.default_rng(1).permutation(HIDDEN)[: HIDDEN // 2]))
    dead = torch.from_numpy(np.setdiff1d(np.arange(HIDDEN), alive.numpy()))
    given = 1 if kind == "gpt2" else 0  # the axis of what a layer gives
    reads: Any = slice(0, 32) if kind == "gpt2" else (slice(None), slice(0, 32))
    ends = ["attn.c_proj.weight"] if kind == "gpt2" else ["attention.output.dense.weight"]
    weights = dict(model.named_parameters())
    silence(weights, ends, reads)
    for name, tensor in weights.items():
        if any(part in name for part in ("wte", "wpe", "_embeddings.weight")):
            _centred(tensor, alive, 1)
        elif name.endswith(("c_proj.weight", "output.dense.weight")):
            _centred(tensor, alive, given)
        elif name.endswith(("c_proj.bias", "output.dense.bias")):
            _centred(tensor, alive, 0)
        elif any(part in name for part in ("ln_", "LayerNorm")):
            silence({name: tensor}, [name], dead)
    before = outcome(model)
    smaller, figures = pruned(model, tmp_path, heads=0.5, hidden=0.5)
    assert (figures["num_heads"], figures["hidden_size"]) == (2, 32)
    after, wanted = outcome(smaller), before if kind == "gpt2" else before[..., alive]
    assert after.shape == wanted.shape
    assert torch.allclose(after, wanted, atol=1e-3 * float(before.abs().max()))


def test_importance_is_the_size_of_what_a_channel_adds() -> None:
    from manta.compress.pruning import width

    squares = torch.tensor([4.0, 1.0, 9.0])
    weight = torch.tensor([[3.0, 0.0, 1.0], [4.0, 2.0, 0.0]])
    assert width.importance(squares, weight).tolist() == [2 * 5.0, 1 * 2.0, 3 * 1.0]


def test_what_stays_stands_in_for_what_goes() -> None:
    """Against the formula in float64; and where a channel that goes is a sum of others, next to nothing is lost."""
    from manta.compress.pruning import width

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 6, generator=generator)
    inputs[:, 5] = inputs[:, 0] - 2 * inputs[:, 1]
    weight = torch.randn(3, 6, generator=generator)
    gram, kept, gone = inputs.T @ inputs / 500, torch.arange(5), torch.tensor([5])
    new = width.refitted(weight, gram, kept)
    g, w = gram.double().numpy(), weight.double().numpy()
    damped = g[:5, :5] + width.DAMPING * g.diagonal().mean() * np.eye(5)
    assert new.numpy() == pytest.approx(w[:, :5] + w[:, 5:] @ g[5:, :5] @ np.linalg.inv(damped), rel=1e-5, abs=1e-6)
    whole = inputs @ weight.T
    lost = [float((whole - inputs[:, kept] @ each.T).norm() / whole.norm()) for each in (weight[:, kept], new)]
    assert lost[1] < 0.05 * lost[0]
    assert len(gone) == 1


def test_refitting_helps_a_model(tmp_path: Path) -> None:
    model = llama()
    before = outcome(model)
    far = {}
    for refit in (False, True):
        smaller, _ = pruned(model, tmp_path / str(refit), intermediate=0.25, multiple=32, refit=refit)
        far[refit] = float((outcome(smaller) - before).norm())
    assert far[True] < 0.95 * far[False]


# --- the directory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_a_pruned_model_is_a_plain_one_in_its_own_dtype(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import load_file

    from manta.models.formulas import num_parameters

    model = MAKERS[kind]().to(torch.bfloat16)
    smaller, figures = pruned(model, tmp_path, layers=0.25, intermediate=0.5, heads=0.5, hidden=0.5, multiple=16)
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert num_parameters(config) == sum(parameter.numel() for parameter in smaller.parameters())
    assert {parameter.dtype for parameter in smaller.parameters()} == {torch.bfloat16}
    assert config["dtype"] == "bfloat16"
    assert figures["layers"] == 3
    stored = load_file(tmp_path / "target" / "model.safetensors")
    if kind != "bert":  # tied: one table, not two
        assert not any(name.startswith("lm_head") for name in stored)
        assert smaller.get_output_embeddings().weight is smaller.get_input_embeddings().weight
    assert bool(outcome(smaller.float()).isfinite().all())


def test_an_output_head_of_its_own_stays_one(tmp_path: Path) -> None:
    smaller, _ = pruned(_untied(), tmp_path, hidden=0.5, multiple=16)
    assert smaller.get_output_embeddings().weight is not smaller.get_input_embeddings().weight
    assert smaller.get_output_embeddings().weight.shape == (VOCAB, 32)


def _untied() -> Any:
    from transformers import LlamaForCausalLM

    config = llama().config
    config.tie_word_embeddings = False
    return LlamaForCausalLM(config)


def test_the_study_mode_says_that_it_is_one(tmp_path: Path) -> None:
    wanted = Prune.model_validate({"sparsity": {"share": 0.5}})
    assert "vLLM gains neither speed nor memory from it" in prune.describe(wanted)
    model = llama()
    smaller, figures = pruned(model, tmp_path, sparsity={"share": 0.5, "method": "magnitude"})
    assert figures["sparsity"] == pytest.approx(0.5, abs=0.001)
    assert figures["sparsity_gain"].startswith("none")
    for name, weight in smaller.named_parameters():
        zeros = float((weight == 0).float().mean())
        assert zeros == (0.5 if name.endswith("_proj.weight") else 0.0), name
