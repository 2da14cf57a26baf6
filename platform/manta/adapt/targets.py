"""Which linear layers a method changes, where the recipe does not say: by the model's type. Nothing here loads torch."""

from __future__ import annotations

# All of attention for Llama, as arXiv:2106.09685 (section 7.1) found best at an equal number of weights; for the others
# queries and values, as peft has it and the paper mostly does; GPT-2 has queries, keys and values in one layer.
LORA: dict[str, list[str]] = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "gpt2": ["c_attn"],
    "bert": ["query", "value"],
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
}
# (targets, those whose inputs are scaled), as peft has it. BERT's attention has an `output.dense` too, which is scaled
# beside the feed-forward's.
IA3: dict[str, tuple[list[str], list[str]]] = {
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
    "t5": (["k", "v", "wo"], ["wo"]),
    "bart": (["k_proj", "v_proj", "fc2"], ["fc2"]),
}


def matches(layer: str, target: str) -> bool:
    """Whether `target`, the end of a name or all of it, means the layer of this full name."""
    return layer == target or layer.endswith(f".{target}")
