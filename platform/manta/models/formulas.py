"""Parameter counts, floating-point operations and training memory of a Llama-family model, from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BYTES = {"bf16": 2, "fp32": 4}


def num_parameters(config: Mapping[str, Any]) -> int:
    """Trainable weights of a LlamaForCausalLM of this configuration (tied embeddings counted once)."""
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)  # queries, output; keys, values
    feed_forward = 3 * hidden * config["intermediate_size"]  # gate, up, down
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return int(layers * (attention + feed_forward + 2 * hidden) + embeddings + hidden)


def flops_per_token(config: Mapping[str, Any], seq_len: int) -> int:
    """Operations of one trained token, forward and backward: 6 N + 12 L H Q T (PaLM, arXiv:2204.02311, appendix B).

    N counts the weights that multiply: all but an untied input embedding's table, which is looked up. The second term
    is attention's, over L layers, H heads of width Q and T positions.
    """
    weights = num_parameters(config)
    if not config.get("tie_word_embeddings"):
        weights -= config["vocab_size"] * config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return int(6 * weights + 12 * config["num_hidden_layers"] * heads * head_dim * seq_len)


def training_memory(
    config: Mapping[str, Any],
    seq_len: int,
    micro_batch: int,
    workers: int,
    zero_stage: int,
    precision: str,
    trainable: int | None = None,
) -> dict[str, int]:
    """Bytes one worker needs, by part. `trainable` is the number of weights that move (default: all).

    ZeRO (arXiv:1910.02054): stage 1 spreads the optimizer's state over the workers, 2 also the gradients, 3 also the
    weights. The optimizer holds AdamW's two moments in fp32, and with bf16 the fp32 master weights as well. Activations
    follow Korthikanti et al. (arXiv:2205.05198, equation 2) with flash attention, plus the logits in fp32 twice
    (themselves and their gradient).
    """
    weights = num_parameters(config)
    moving = weights if trainable is None else trainable
    size = BYTES[precision]
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    inner = config["intermediate_size"]
    tokens = seq_len * micro_batch
    # Per token and layer: inputs of two norms, of q/k/v, of the output projection and of the MLP, q, k, v; gate, up,
    # their product and the activation.
    activations = tokens * layers * size * (8 * hidden + 4 * inner)
    logits = tokens * config["vocab_size"] * (size + 2 * 4)
    return {
        "weights": weights * size // (workers if zero_stage == 3 else 1),
        "gradients": moving * size // (workers if zero_stage >= 2 else 1),
        "optimizer": moving * (8 + (4 if precision == "bf16" else 0)) // (workers if zero_stage >= 1 else 1),
        "activations": activations + logits,
    }
