"""BERT (arXiv:1810.04805): encoders that see both sides, with a head for hidden tokens and one for sentence pairs."""

from __future__ import annotations

from typing import Any

from manta.models.families.family import Config, Family, Shape, Stack, headed, num_labels

# base and large are the paper's; tiny, mini and small those of Turc et al. 2019 (arXiv:1908.08962).
PRESETS: dict[str, dict[str, Any]] = {
    "bert-tiny": {"hidden_size": 128, "intermediate_size": 512, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 512, "dropout": 0.1},
    "bert-mini": {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 512, "dropout": 0.1},
    "bert-small": {"hidden_size": 512, "intermediate_size": 2048, "num_layers": 4, "num_heads": 8, "max_position_embeddings": 512, "dropout": 0.1},
    "bert-base": {"hidden_size": 768, "intermediate_size": 3072, "num_layers": 12, "num_heads": 12, "max_position_embeddings": 512, "dropout": 0.1},
    "bert-large": {"hidden_size": 1024, "intermediate_size": 4096, "num_layers": 24, "num_heads": 16, "max_position_embeddings": 512, "dropout": 0.1},
}  # fmt: skip
PAIRS = "BertForPreTraining"
TEXTS, WORDS, ANSWERS = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
BARE = "BertModel"  # whose vectors are compared


def config(sizes: dict[str, Any], special: dict[str, int | None]) -> dict[str, Any]:
    return {
        "hidden_size": sizes["hidden_size"],
        "intermediate_size": sizes["intermediate_size"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "max_position_embeddings": sizes["max_position_embeddings"],
        "type_vocab_size": 2,
        "hidden_dropout_prob": sizes["dropout"],
        "attention_probs_dropout_prob": sizes["dropout"],
        "initializer_range": 0.02,
        **special,
    }


def shape(config: Config) -> Shape:
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    table = config["vocab_size"] * hidden
    looked_up = (config["max_position_embeddings"] + config.get("type_vocab_size", 2)) * hidden
    labelling = any(headed(config, head) for head in (TEXTS, WORDS, ANSWERS))
    bare = headed(config, BARE)
    if labelling or bare or not config.get("tie_word_embeddings", True):
        looked_up += table
    if PAIRS in (config.get("architectures") or []):
        looked_up += hidden * hidden + hidden + 2 * hidden + 2  # sees a row's first token only
    vocab = config["vocab_size"]
    # The embeddings' norm; the head's layer and norm; the output's biases; the table once more.
    head = 2 * hidden + hidden * hidden + hidden + 2 * hidden + vocab + table
    if labelling:
        vocab, head = num_labels(config), 2 * hidden
        output = vocab * hidden + vocab
        if headed(config, TEXTS):
            looked_up += hidden * hidden + hidden + output  # sees a row's first token only
        else:
            head += output
    if bare:
        vocab, head = 0, 2 * hidden
        looked_up += hidden * hidden + hidden  # the pooler, which nothing uses
    return Shape(
        main=Stack(
            layers=config["num_hidden_layers"],
            width=hidden,
            weights=4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden,
            # The block's input; queries, keys, values and what attention makes of them; of the norm between its input
            # and output; the other norm's input; the activation's input and output.
            kept=8 * hidden + 2 * inner,
            dropped=2 * hidden,
            heads=heads,
            head_dim=hidden // heads,
            outer=5 * hidden,
            outer_dropped=hidden,
        ),
        vocab=vocab,
        head=head,
        aside=looked_up,
        dropout=max(config.get(key, 0.1) for key in ("hidden_dropout_prob", "attention_probs_dropout_prob")) > 0,
    )


FAMILY = Family(
    kind="encoder",
    architectures={
        "mlm": "BertForMaskedLM",
        "multi_mlm": "BertForMaskedLM",
        "nsp": PAIRS,
        "sequence_labels": f"Bert{TEXTS}",
        "token_labels": f"Bert{WORDS}",
        "spans": f"Bert{ANSWERS}",
        "contrast": BARE,
    },
    presets=PRESETS,
    default="bert-mini",
    positions=("max_position_embeddings",),
    config=config,
    shape=shape,
)
