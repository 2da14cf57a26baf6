"""LSTM language models (Hochreiter and Schmidhuber 1997): the baseline that articles compared with before attention."""

from __future__ import annotations

from typing import Any

from manta.models.families.family import Config, Family, Shape, Stack

# 60m has the two layers of 1,500 units of Zaremba et al.'s large model (arXiv:1409.2329), with the output tied to the
# embeddings (arXiv:1608.05859). Its dropout was 0.65 for one million tokens; a larger corpus wants less.
PRESETS: dict[str, dict[str, Any]] = {
    "lstm-tiny": {"hidden_size": 128, "num_layers": 2, "tie_embeddings": True, "dropout": 0.1},
    "lstm-10m": {"hidden_size": 576, "num_layers": 2, "tie_embeddings": True, "dropout": 0.1},
    "lstm-60m": {"hidden_size": 1500, "num_layers": 2, "tie_embeddings": True, "dropout": 0.1},
}
# Values that torch keeps of one token in one layer, in units of the width: oneDNN's workspace and the layer's own
# input and output, as measured.
KEPT = 17


def config(sizes: dict[str, Any], special: dict[str, int | None]) -> dict[str, Any]:
    return {
        "hidden_size": sizes["hidden_size"],
        "num_hidden_layers": sizes["num_layers"],
        "tie_word_embeddings": sizes["tie_embeddings"],
        "dropout": sizes["dropout"],
        **special,
    }


def shape(config: Config) -> Shape:
    hidden = config["hidden_size"]
    table = config["vocab_size"] * hidden
    return Shape(
        main=Stack(
            layers=config["num_hidden_layers"],
            width=hidden,
            weights=8 * hidden * hidden + 8 * hidden,  # four gates, of the input and of the state
            kept=KEPT * hidden,
            upcast=6 * hidden,
            dropped=hidden,
            outer=hidden,
            outer_dropped=hidden,
        ),
        vocab=config["vocab_size"],
        head=table,
        aside=0 if config.get("tie_word_embeddings", True) else table,
        dropout=config.get("dropout", 0.0) > 0,
    )


FAMILY = Family(
    kind="decoder",
    architectures=dict.fromkeys(("clm", "distillation", "preference"), "LSTMForCausalLM"),
    presets=PRESETS,
    default="lstm-10m",
    positions=(),
    config=config,
    shape=shape,
)
