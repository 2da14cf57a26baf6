"""Llama (arXiv:2302.13971): decoders with rotary positions, RMS norms, gated feed-forward and grouped queries."""

from __future__ import annotations

from typing import Any

from manta.models.families.family import Config, Family, Shape, Stack, headed, num_labels

# Widths keep head_dim a multiple of 32, which every attention kernel of vLLM takes. 70m is deep and thin, as MobileLLM
# found best for its size (arXiv:2402.14905); 135m follows SmolLM2 (arXiv:2502.02737), 1b TinyLlama (arXiv:2401.02385),
# 7b Llama 2 (arXiv:2307.09288).
PRESETS: dict[str, dict[str, Any]] = {
    "llama-tiny": {"hidden_size": 64, "intermediate_size": 192, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "max_position_embeddings": 1024, "tie_embeddings": True},
    "llama-7m": {"hidden_size": 256, "intermediate_size": 768, "num_layers": 6, "num_heads": 8, "num_kv_heads": 4, "max_position_embeddings": 1024, "tie_embeddings": True},
    "llama-30m": {"hidden_size": 448, "intermediate_size": 1088, "num_layers": 10, "num_heads": 7, "num_kv_heads": 7, "max_position_embeddings": 2048, "tie_embeddings": True},
    "llama-70m": {"hidden_size": 512, "intermediate_size": 1664, "num_layers": 16, "num_heads": 8, "num_kv_heads": 4, "max_position_embeddings": 2048, "tie_embeddings": True},
    "llama-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "max_position_embeddings": 2048, "tie_embeddings": True},
    "llama-1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_layers": 22, "num_heads": 32, "num_kv_heads": 4, "max_position_embeddings": 2048, "tie_embeddings": False},
    "llama-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "max_position_embeddings": 4096, "tie_embeddings": False},
}  # fmt: skip


def config(sizes: dict[str, Any], special: dict[str, int | None]) -> dict[str, Any]:
    return {
        "hidden_size": sizes["hidden_size"],
        "intermediate_size": sizes["intermediate_size"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "num_key_value_heads": sizes["num_kv_heads"],
        "head_dim": sizes["hidden_size"] // sizes["num_heads"],
        "max_position_embeddings": sizes["max_position_embeddings"],
        "tie_word_embeddings": sizes["tie_embeddings"],
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        **special,
    }


def shape(config: Config) -> Shape:
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, (config.get("num_key_value_heads") or heads) * head_dim
    attention = hidden * (2 * queries + 2 * keys)  # queries, output; keys, values
    if config.get("attention_bias"):
        attention += queries + 2 * keys + hidden
    feed_forward = 3 * hidden * inner  # gate, up, down
    if config.get("mlp_bias"):
        feed_forward += 2 * inner + hidden
    table = config["vocab_size"] * hidden
    texts = headed(config, "ForSequenceClassification")  # its output layer, without biases, sees every token
    return Shape(
        main=Stack(
            layers=config["num_hidden_layers"],
            width=hidden,
            weights=attention + feed_forward + 2 * hidden,
            # Of each norm its input, the normalised and the scaled; queries, keys, values and what attention makes of
            # them; gate, its activation, up and their product.
            kept=6 * hidden + 2 * queries + 2 * keys + 4 * inner,
            upcast=2 * hidden,
            heads=heads,
            head_dim=head_dim,
            outer=3 * hidden,
            outer_upcast=hidden,
        ),
        vocab=num_labels(config) if texts else config["vocab_size"],
        head=(num_labels(config) * hidden if texts else table) + hidden,
        aside=0 if config.get("tie_word_embeddings") and not texts else table,
        dropout=False,
    )


FAMILY = Family(
    kind="decoder",
    architectures={
        "clm": "LlamaForCausalLM",
        "distillation": "LlamaForCausalLM",
        "preference": "LlamaForCausalLM",
        "sequence_labels": "LlamaForSequenceClassification",
    },
    presets=PRESETS,
    default="llama-7m",
    positions=("max_position_embeddings",),
    config=config,
    shape=shape,
    even_heads=True,
)
