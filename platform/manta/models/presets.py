"""Named sizes of models built from scratch, and how a recipe's `model` section becomes a Transformers configuration."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError
from manta.sections.train import NewModel

# Widths keep head_dim a multiple of 32, which every attention kernel of vLLM takes. 135m follows SmolLM2
# (arXiv:2502.02737), 1b TinyLlama (arXiv:2401.02385), 7b Llama 2 (arXiv:2307.09288).
PRESETS: dict[str, dict[str, Any]] = {
    "llama-tiny": {"hidden_size": 64, "intermediate_size": 192, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "max_position_embeddings": 1024, "tie_embeddings": True},
    "llama-7m": {"hidden_size": 256, "intermediate_size": 768, "num_layers": 6, "num_heads": 8, "num_kv_heads": 4, "max_position_embeddings": 1024, "tie_embeddings": True},
    "llama-30m": {"hidden_size": 448, "intermediate_size": 1088, "num_layers": 10, "num_heads": 7, "num_kv_heads": 7, "max_position_embeddings": 2048, "tie_embeddings": True},
    "llama-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "max_position_embeddings": 2048, "tie_embeddings": True},
    "llama-1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_layers": 22, "num_heads": 32, "num_kv_heads": 4, "max_position_embeddings": 2048, "tie_embeddings": False},
    "llama-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "max_position_embeddings": 4096, "tie_embeddings": False},
}  # fmt: skip


def sizes(model: NewModel) -> dict[str, Any]:
    """The preset's sizes with the recipe's overrides. Raises InputError when they do not fit each other."""
    chosen = dict(PRESETS[model.preset])
    chosen.update({key: value for key in chosen if (value := getattr(model, key)) is not None})
    hidden, heads, kv_heads = chosen["hidden_size"], chosen["num_heads"], chosen["num_kv_heads"]
    if hidden % heads or (hidden // heads) % 2:
        raise InputError(
            f"model.num_heads = {heads} does not divide model.hidden_size = {hidden} into heads of even width: "
            f"set model.num_heads to {_nearest_heads(hidden, heads)}"
        )
    if heads % kv_heads:
        raise InputError(
            f"model.num_kv_heads = {kv_heads} does not divide model.num_heads = {heads}: "
            f"set model.num_kv_heads={next(n for n in range(min(kv_heads, heads), 0, -1) if heads % n == 0)}"
        )
    return chosen


def _nearest_heads(hidden: int, heads: int) -> int:
    fitting = [n for n in range(1, hidden + 1) if hidden % n == 0 and (hidden // n) % 2 == 0] or [1]
    return min(fitting, key=lambda n: abs(n - heads))


def config(model: NewModel, vocab_size: int, special: dict[str, int | None]) -> dict[str, Any]:
    """The content of config.json for a new model. `special` holds bos_token_id, eos_token_id and pad_token_id."""
    chosen = sizes(model)
    return {
        "model_type": model.family,
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_size": chosen["hidden_size"],
        "intermediate_size": chosen["intermediate_size"],
        "num_hidden_layers": chosen["num_layers"],
        "num_attention_heads": chosen["num_heads"],
        "num_key_value_heads": chosen["num_kv_heads"],
        "head_dim": chosen["hidden_size"] // chosen["num_heads"],
        "max_position_embeddings": chosen["max_position_embeddings"],
        "tie_word_embeddings": chosen["tie_embeddings"],
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        **special,
    }
