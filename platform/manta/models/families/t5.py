"""T5 (arXiv:1910.10683): an encoder and a decoder with relative positions, as the paper first trained them.

Not v1.1 (gated feed-forward, an output layer of its own): Transformers ties T5's output layer to the embeddings in any
case, and of the two only the first T5 scales what it multiplies with them. Without that scale a new model's first logits
deviate by the square root of the width: t5-tiny's first loss is 64 nats instead of 6.8, of which log(vocabulary) is 5.7.
"""

from __future__ import annotations

from typing import Any

from manta.models.families.family import Config, Family, Shape, Stack, filled

# small, base and large are the paper's (section 3.7); mini is Tay et al.'s "tiny" (arXiv:2109.10686) with heads of 64.
PRESETS: dict[str, dict[str, Any]] = {
    "t5-tiny": {"hidden_size": 128, "intermediate_size": 512, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "dropout": 0.1},
    "t5-mini": {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4, "dropout": 0.1},
    "t5-small": {"hidden_size": 512, "intermediate_size": 2048, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8, "dropout": 0.1},
    "t5-base": {"hidden_size": 768, "intermediate_size": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "dropout": 0.1},
    "t5-large": {"hidden_size": 1024, "intermediate_size": 4096, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 16, "dropout": 0.1},
}  # fmt: skip


def config(sizes: dict[str, Any], special: dict[str, int | None]) -> dict[str, Any]:
    return {
        "d_model": sizes["hidden_size"],
        "d_ff": sizes["intermediate_size"],
        "d_kv": sizes["hidden_size"] // sizes["num_heads"],
        "num_layers": sizes["num_layers"],
        "num_decoder_layers": sizes["num_decoder_layers"],
        "num_heads": sizes["num_heads"],
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
        "dropout_rate": sizes["dropout"],
        **filled(special, start="pad"),
    }


def shape(config: Config) -> Shape:
    hidden, inner, heads, head_dim = config["d_model"], config["d_ff"], config["num_heads"], config["d_kv"]
    width = heads * head_dim
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    feed_forward = (3 if gated else 2) * hidden * inner
    # What the activation gives, and where it is gated its five steps, the other factor and the product.
    steps = 7 * inner if gated else inner
    table = config["vocab_size"] * hidden
    # Of each norm its input, the normalised and the scaled (in bf16 more, some of it fp32); queries, keys, values and
    # what attention makes of them. The learnt bias keeps the CPU from its fused attention.
    attention = {"heads": heads, "head_dim": head_dim, "biased": True, "outer": 3 * hidden, "outer_upcast": 2 * hidden, "outer_dropped": 2 * hidden}  # fmt: skip
    layers = config["num_layers"]
    decoder_layers = config.get("num_decoder_layers")
    return Shape(
        main=Stack(
            layers=layers,
            width=hidden,
            weights=4 * hidden * width + feed_forward + 2 * hidden,
            kept=6 * hidden + 4 * width + steps,
            upcast=4 * hidden,
            dropped=2 * hidden + inner,
            copied=inner,
            **attention,
        ),
        decoder=Stack(
            layers=layers if decoder_layers is None else decoder_layers,
            width=hidden,
            weights=6 * hidden * width + feed_forward + 3 * hidden,
            kept=9 * hidden + 6 * width + steps,
            upcast=6 * hidden,
            dropped=3 * hidden + inner,
            copied=inner,
            memory_weights=2 * hidden * width,
            memory_kept=2 * width,
            **attention,
        ),
        vocab=config["vocab_size"],
        head=table + hidden,
        # The relative positions of both stacks and the encoder's last norm.
        aside=2 * config.get("relative_attention_num_buckets", 32) * heads
        + hidden
        + (0 if config.get("tie_word_embeddings", True) else table),
        dropout=config.get("dropout_rate", 0.1) > 0,
    )


FAMILY = Family(
    kind="encoder_decoder",
    architectures={"denoising": "T5ForConditionalGeneration"},
    presets=PRESETS,
    default="t5-mini",
    positions=(),
    config=config,
    shape=shape,
)
