"""GPT-2 (Radford et al. 2019): decoders with learnt positions and norms before each block."""

from __future__ import annotations

from typing import Any

from manta.models.families.family import Config, Family, Shape, Stack, headed, num_labels

# 124m, 355m, 774m and 1.5b are the four models of the paper (table 2), as counted with its 50,257 tokens. Heads are 32
# or 64 wide, which vLLM's kernels take.
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2-tiny": {"hidden_size": 64, "intermediate_size": 256, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 1024, "tie_embeddings": True, "dropout": 0.1},
    "gpt2-7m": {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 6, "num_heads": 8, "max_position_embeddings": 1024, "tie_embeddings": True, "dropout": 0.1},
    "gpt2-124m": {"hidden_size": 768, "intermediate_size": 3072, "num_layers": 12, "num_heads": 12, "max_position_embeddings": 1024, "tie_embeddings": True, "dropout": 0.1},
    "gpt2-355m": {"hidden_size": 1024, "intermediate_size": 4096, "num_layers": 24, "num_heads": 16, "max_position_embeddings": 1024, "tie_embeddings": True, "dropout": 0.1},
    "gpt2-774m": {"hidden_size": 1280, "intermediate_size": 5120, "num_layers": 36, "num_heads": 20, "max_position_embeddings": 1024, "tie_embeddings": True, "dropout": 0.1},
    "gpt2-1.5b": {"hidden_size": 1600, "intermediate_size": 6400, "num_layers": 48, "num_heads": 25, "max_position_embeddings": 1024, "tie_embeddings": True, "dropout": 0.1},
}  # fmt: skip


def config(sizes: dict[str, Any], special: dict[str, int | None]) -> dict[str, Any]:
    return {
        "n_embd": sizes["hidden_size"],
        "n_inner": sizes["intermediate_size"],
        "n_layer": sizes["num_layers"],
        "n_head": sizes["num_heads"],
        "n_positions": sizes["max_position_embeddings"],
        "tie_word_embeddings": sizes["tie_embeddings"],
        "resid_pdrop": sizes["dropout"],
        "embd_pdrop": sizes["dropout"],
        "attn_pdrop": sizes["dropout"],
        "initializer_range": 0.02,  # of what ends a residual branch: 0.02 / sqrt(2 layers), which Transformers sees to
        **special,
    }


def shape(config: Config) -> Shape:
    hidden, heads, positions = config["n_embd"], config["n_head"], config["n_positions"]
    inner = config.get("n_inner") or 4 * hidden
    table = config["vocab_size"] * hidden
    texts = headed(config, "ForSequenceClassification")  # its output layer, without biases, sees every token
    return Shape(
        main=Stack(
            layers=config["n_layer"],
            width=hidden,
            # Attention and its biases; feed-forward and its biases; two norms.
            weights=4 * hidden * hidden + 4 * hidden + 2 * hidden * inner + inner + hidden + 4 * hidden,
            # Of each norm its input and output; queries, keys, values and what attention makes of them; five steps of
            # the activation, whose tanh is written out.
            kept=8 * hidden + 5 * inner,
            dropped=2 * hidden,
            heads=heads,
            head_dim=hidden // heads,
            outer=2 * hidden,
            outer_dropped=hidden,
        ),
        vocab=num_labels(config) if texts else config["vocab_size"],
        head=(num_labels(config) * hidden if texts else table) + 2 * hidden,
        aside=positions * hidden + (0 if config.get("tie_word_embeddings", True) and not texts else table),
        dropout=max(config.get(key, 0.1) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")) > 0,
    )


FAMILY = Family(
    kind="decoder",
    architectures={
        "clm": "GPT2LMHeadModel",
        "distillation": "GPT2LMHeadModel",
        "preference": "GPT2LMHeadModel",
        "sequence_labels": "GPT2ForSequenceClassification",
    },
    presets=PRESETS,
    default="gpt2-7m",
    positions=("n_positions",),
    config=config,
    shape=shape,
)
