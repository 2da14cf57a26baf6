"""What each method lets move, in each family: proved by tensors that are the same to the bit after three steps."""

from __future__ import annotations

import re

import pytest
import torch

from manta import adapt
from tests.adapt import adaptable
from tests.adapt.adaptable import FITTING, METHODS, config, judged, make, train

# Names of the heads that tasks add, and of the pooler that belongs to them.
HEAD = r"(classifier|score|qa_outputs|bert\.pooler)\."
# Names of what may move: of the embeddings and the first two blocks nothing, whatever the family.
FREEZE = {
    "llama": r"(model\.layers\.2\.|model\.norm|score\.)",
    "gpt2": r"(transformer\.h\.2\.|transformer\.ln_f|score\.)",
    "bert": rf"(bert\.encoder\.layer\.2\.|{HEAD})",
    "t5": r"(decoder\.|encoder\.final_layer_norm|.*\.final_layer_norm)",
    "bart": r"model\.decoder\.layers\.",
}
NORM = r".*(norm|Norm|ln_1|ln_2|ln_f)\w*\.(weight|bias)$"
# Attention does not change when all keys move alike: what reaches these biases is rounding.
KEYS = r"\b(key|k_proj)\.bias$"
ADDED = {
    "lora": r"\.lora_[AB]\.",
    "rslora": r"\.lora_[AB]\.",
    "all-linear": r"\.lora_[AB]\.",
    "dora": r"\.lora_([AB]|magnitude_vector)\.",
    "ia3": r"\.ia3_l\.",
    "prefix": r"^prompt_encoder\.",
    "prompt": r"^prompt_encoder\.",
}


def may_move(name: str, method: str, tensor: str) -> bool:
    """Written down apart from the code: whether the tensor of this name moves under the method."""
    family = adaptable.CLASSES[name][0]
    if method == "full":
        return True
    if method == "freeze":
        return re.match(FREEZE[family], tensor) is not None
    if method == "head":
        return re.match(HEAD, tensor) is not None
    if method == "bitfit":
        return tensor.endswith(".bias") or re.match(NORM, tensor) is not None or re.match(HEAD, tensor) is not None
    return re.search(ADDED[method], tensor) is not None or ".modules_to_save.default." in tensor


@pytest.mark.parametrize(("name", "method"), FITTING)
def test_three_steps_move_what_the_method_trains_and_not_a_bit_else(name: str, method: str) -> None:
    model = adapt.apply(make(name), METHODS[method])
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    train(model, name)
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    allowed = {key for key in before if may_move(name, method, key)}
    assert moved <= allowed
    assert {key for key in allowed if not re.search(KEYS, key)} <= moved
    buffers = dict(model.named_buffers())
    assert all(
        torch.equal(buffers[key], value) for key, value in adapt.apply(make(name), METHODS[method]).named_buffers()
    )


@pytest.mark.parametrize("method", ["lora", "rslora", "all-linear", "dora", "ia3"])
@pytest.mark.parametrize("name", adaptable.CLASSES)
def test_what_is_added_to_layers_starts_from_the_base_s_own_answers(name: str, method: str) -> None:
    adapted = judged(adapt.apply(make(name), METHODS[method]), name)
    assert torch.allclose(adapted, judged(make(name), name), atol=1e-5)


@pytest.mark.parametrize("name", adaptable.CLASSES)
def test_default_targets_are_those_of_the_family(name: str) -> None:
    family = adaptable.CLASSES[name][0]
    expected = {
        "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "gpt2": ["c_attn"],
        "bert": ["query", "value"],
        "t5": ["q", "v"],
        "bart": ["q_proj", "v_proj"],
    }[family]
    model = adapt.apply(make(name), METHODS["lora"])
    changed = {key.split(".lora_A.")[0].rpartition(".")[2] for key in model.state_dict() if ".lora_A." in key}
    assert changed == set(expected)
    attentions = {"t5": 2 + 2 * 3, "bart": 2 + 2 * 3}.get(family, 3)  # the decoder has two in each block
    assert sum(".lora_A." in key for key in model.state_dict()) == attentions * len(expected)


@pytest.mark.parametrize(("name", "layers"), [("llama", 3 * 7), ("gpt2", 3 * 4), ("bert-texts", 3 * 6), ("t5", 2 * 6 + 3 * 10), ("bart", 2 * 6 + 3 * 10)])  # fmt: skip
def test_all_linear_means_the_blocks_and_no_head(name: str, layers: int) -> None:
    model = adapt.apply(make(name), METHODS["all-linear"])
    changed = [key.split(".lora_A.")[0] for key in model.state_dict() if ".lora_A." in key]
    assert len(changed) == layers
    assert not any(re.search(r"lm_head|classifier|pooler|score", key) for key in changed)


def test_what_is_added_is_drawn_from_the_seed_alone() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = make("llama")
        torch.manual_seed(seed)
        return adapt.apply(model, METHODS["prefix"]).prompt_encoder["default"].embedding.weight

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))
    assert float(drawn(3).detach().std()) == pytest.approx(0.02, rel=0.1)


def test_a_prompt_starts_as_tokens_of_the_vocabulary() -> None:
    model = make("llama")
    table = model.get_input_embeddings().weight.detach().clone()
    prompt = adapt.apply(model, METHODS["prompt"]).prompt_encoder["default"].embedding.weight
    assert all(any(torch.equal(row, token) for token in table) for row in prompt)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert-words", "bert-spans"])
def test_what_stands_before_the_text_gives_no_answers_of_its_own(name: str) -> None:
    """The answers are as many as the text's tokens, and those that peft gives for them."""
    model = adapt.apply(make(name), METHODS["prompt"])
    assert judged(model, name).shape == judged(make(name), name).shape
    from peft import PeftModel

    bare = make(name)
    embedded = torch.cat([model.prompt_encoder["default"].embedding.weight.expand(2, -1, -1), bare.get_input_embeddings()(adaptable.inputs(name)["input_ids"])], 1)  # fmt: skip
    assert isinstance(model, PeftModel)
    if name == "llama":
        by_hand = bare(inputs_embeds=embedded, use_cache=False).logits[:, 5:].reshape(-1)
        assert torch.allclose(judged(model, name), by_hand, atol=1e-5)


def test_a_prefix_is_seen_by_every_token_like_text_before_it() -> None:
    """Keys and values that the model itself makes of five tokens, put there as the prefix: as if they had been read."""
    model = make("llama").eval()
    ids = adaptable.inputs("llama")["input_ids"]
    before = ids[0, :5]
    with torch.no_grad():
        cache = model(input_ids=before[None], use_cache=True).past_key_values
        whole = model(input_ids=torch.cat([before.expand(2, -1), ids], 1), use_cache=False).logits[:, 5:]
        # (places, 2 x layers, heads, width of a head): keys of a layer, then its values
        layers = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
        flat = torch.cat(layers).permute(2, 0, 1, 3).reshape(5, -1)
        adapted = adapt.apply(make("llama"), METHODS["prefix"])
        adapted.prompt_encoder["default"].embedding.weight.copy_(flat)
    assert torch.allclose(judged(adapted, "llama"), whole.reshape(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "method", "moving"),
    [
        ("llama", "full", None),
        ("llama", "lora", 3 * 4 * (32 + 32 + 32 + 32 + 2 * (32 + 16))),
        ("gpt2", "dora", 3 * (4 * (32 + 96) + 96)),
        ("bert-texts", "head", 32 * 32 + 32 + 3 * 32 + 3),
        ("t5", "prefix", 5 * 2 * 3 * 4 * 16),
        ("bart", "prompt", 5 * 32),
    ],
)
def test_the_share_that_moves_is_told(name: str, method: str, moving: int | None) -> None:
    model = make(name)
    own = sum(p.numel() for p in model.parameters())
    added = 0 if method in ("full", "head") else moving or 0
    said = adapt.describe(adapt.apply(model, METHODS[method]))
    moving, total = own if moving is None else moving, own + added
    assert said.startswith(f"{moving:,} of {total:,} weights move ({moving / total:.2%})")
    assert ("no model/" in said) == (method in ("prefix", "prompt"))


def test_a_head_is_counted_once() -> None:
    """peft keeps the head that it started from beside the one that it trains."""
    model = make("bert-words")
    own = sum(p.numel() for p in model.parameters())
    lora = 3 * 2 * 4 * (32 + 32)
    said = adapt.describe(adapt.apply(model, METHODS["lora"]))
    assert said.startswith(f"{lora + 3 * 32 + 3:,} of {own + lora:,} weights move")


def test_what_the_tests_know_of_a_model_is_its_whole_configuration() -> None:
    for name in adaptable.CLASSES:
        assert make(name).config.model_type == config(name)["model_type"]
