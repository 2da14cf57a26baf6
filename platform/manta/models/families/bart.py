"""BART (arXiv:1910.13461): an encoder and a decoder with learnt positions and norms behind each block."""

from __future__ import annotations

from typing import Any

from manta.models.families.family import Config, Family, Shape, Stack, filled

# base and large are the paper's (section 2.1).
PRESETS: dict[str, dict[str, Any]] = {
    "bart-tiny": {"hidden_size": 128, "intermediate_size": 512, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "max_position_embeddings": 1024, "dropout": 0.1},
    "bart-mini": {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4, "max_position_embeddings": 1024, "dropout": 0.1},
    "bart-base": {"hidden_size": 768, "intermediate_size": 3072, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 12, "max_position_embeddings": 1024, "dropout": 0.1},
    "bart-large": {"hidden_size": 1024, "intermediate_size": 4096, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 16, "max_position_embeddings": 1024, "dropout": 0.1},
}  # fmt: skip
OFFSET = 2  # positions that BART's tables hold before the first


def config(sizes: dict[str, Any], special: dict[str, int | None]) -> dict[str, Any]:
    ids = filled(special, start="eos")
    if ids:
        ids["forced_eos_token_id"] = ids.get("eos_token_id")
    return {
        "d_model": sizes["hidden_size"],
        "encoder_ffn_dim": sizes["intermediate_size"],
        "decoder_ffn_dim": sizes["intermediate_size"],
        "encoder_layers": sizes["num_layers"],
        "decoder_layers": sizes["num_decoder_layers"],
        "encoder_attention_heads": sizes["num_heads"],
        "decoder_attention_heads": sizes["num_heads"],
        "max_position_embeddings": sizes["max_position_embeddings"],
        "dropout": sizes["dropout"],
        "attention_dropout": sizes["dropout"],
        "activation_dropout": 0.0,
        "init_std": 0.02,
        **ids,
    }


def shape(config: Config) -> Shape:
    hidden, vocab = config["d_model"], config["vocab_size"]
    table, square = vocab * hidden, hidden * hidden + hidden

    def feed_forward(side: str) -> int:
        return 2 * hidden * int(config[f"{side}_ffn_dim"]) + int(config[f"{side}_ffn_dim"]) + hidden

    return Shape(
        main=Stack(
            layers=config["encoder_layers"],
            width=hidden,
            weights=4 * square + feed_forward("encoder") + 4 * hidden,
            # The block's input; queries, keys, values and what attention makes of them; of the norm between its input
            # and output; the other norm's input; the activation's input and output.
            kept=8 * hidden + 2 * config["encoder_ffn_dim"],
            dropped=2 * hidden,
            heads=config["encoder_attention_heads"],
            head_dim=hidden // config["encoder_attention_heads"],
            outer=2 * hidden,
            outer_dropped=hidden,
        ),
        decoder=Stack(
            layers=config["decoder_layers"],
            width=hidden,
            weights=6 * square + feed_forward("decoder") + 6 * hidden,
            kept=12 * hidden + 2 * config["decoder_ffn_dim"],
            dropped=3 * hidden,
            memory_weights=2 * square,
            memory_kept=2 * hidden,
            heads=config["decoder_attention_heads"],
            head_dim=hidden // config["decoder_attention_heads"],
            outer=2 * hidden,
            outer_dropped=hidden,
        ),
        vocab=vocab,
        head=table,
        # Positions and the embeddings' norm, both twice.
        aside=2 * (config["max_position_embeddings"] + OFFSET) * hidden + 4 * hidden,
        dropout=max(config.get("dropout", 0.1), config.get("attention_dropout", 0.0)) > 0,
    )


FAMILY = Family(
    kind="encoder_decoder",
    architectures={"denoising": "BartForConditionalGeneration"},
    presets=PRESETS,
    default="bart-mini",
    positions=("max_position_embeddings",),
    config=config,
    shape=shape,
)
