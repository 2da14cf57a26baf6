"""Parameter counts, floating-point operations and kept activations of a model, from its config.json alone."""

from __future__ import annotations

from manta.models.families import BY_NAME, Config, Shape, Stack

BYTES = {"bf16": 2, "fp32": 4}
# Decoder tokens for each token of the encoder, where the caller does not say: T5's 114 for 512 (arXiv:1910.10683).
TARGET_SHARE = 114 / 512
# An LSTM's isolated documents cost a step before each and a copy of each layer's input: measured at 80 to 90 tokens each.
ISOLATED_STATES = 1.25


def shape(config: Config) -> Shape:
    """What a configuration costs, in plain numbers. Loads torch only for types that are no family of ours."""
    name = config["model_type"]
    if name in BY_NAME:
        return BY_NAME[name].shape(config)
    from manta.models import others

    return others.shape(config)


def num_parameters(config: Config) -> int:
    """Trainable weights of the class that the configuration names (tied embeddings counted once), exactly."""
    return shape(config).total


def max_positions(config: Config) -> int | None:
    """The longest row in tokens; None where there is no limit, as with relative positions or an LSTM."""
    family = BY_NAME.get(config["model_type"])
    keys = family.positions if family else ("max_position_embeddings", "n_positions")
    return next((int(config[key]) for key in keys if config.get(key)), None)


# --- operations ------------------------------------------------------------------------------------------------------


def flops_per_row(config: Config, seq_len: int, target_len: int | None = None, scored: float = 1.0) -> int:
    """Operations of one trained row, forward and backward: 6 N + 12 L H Q T a token (PaLM, arXiv:2204.02311, appendix B).

    N counts the weights that multiply the token: all but the tables that are looked up (an untied input embedding,
    positions) and BERT's heads for pairs. The second term is attention's, over L layers, H heads of width Q and T
    positions; as in PaLM it is not halved for decoders, whose tokens do not see those after them. An encoder-decoder's
    encoder works on `seq_len` tokens and its decoder on `target_len` (None: T5's share of seq_len); the keys and
    values of the attention between them are of the encoder's tokens, its queries of the decoder's. `scored` is the
    share of the predicted positions whose logits are computed at all (mlm and nsp: the masked ones).
    """
    found = shape(config)
    total = _blocks(found.main, seq_len)
    head = found.head - round((1.0 - scored) * found.vocab * found.main.width)
    if found.decoder is None:
        return total + 6 * head * seq_len
    target = targets(seq_len, target_len)
    total += _blocks(found.decoder, target) + 6 * head * target
    between = 12 * found.decoder.heads * found.decoder.head_dim * target * seq_len
    return total + found.decoder.layers * (6 * found.decoder.memory_weights * seq_len + between)


def flops_per_token(config: Config, seq_len: int, target_len: int | None = None, scored: float = 1.0) -> int:
    """`flops_per_row` over the `seq_len` tokens of a row, which are those that training counts (the encoder's)."""
    return flops_per_row(config, seq_len, target_len, scored) // seq_len


def _blocks(stack: Stack, tokens: int) -> int:
    return stack.layers * (6 * stack.weights * tokens + 12 * stack.heads * stack.head_dim * tokens * tokens)


def targets(seq_len: int, target_len: int | None) -> int:
    """Tokens of a row's decoder: those that are given, or T5's share of the encoder's."""
    return round(TARGET_SHARE * seq_len) if target_len is None else target_len


# --- activations -----------------------------------------------------------------------------------------------------


def activations(
    config: Config,
    seq_len: int,
    precision: str,
    *,
    target_len: int | None = None,
    isolated: bool = False,
    checkpointing: bool = False,
    gpu: bool = False,
) -> int:
    """Bytes of one row that the forward pass leaves for the backward pass, without the logits.

    After Korthikanti et al. (arXiv:2205.05198, equation 2), with the values that PyTorch's kernels keep for each
    family. Fused attention keeps no probabilities; `isolated` documents add its mask, once a layer. On a CPU attention
    with dropout or with a learnt bias (T5) is not fused and keeps them, and a dropout mask has a value's width; on a
    GPU it has one byte. With `checkpointing` only each block's input stays, and one block is there in full when it is
    computed again. Left out is what does not grow with the number of rows: T5's buckets of relative positions.
    """
    found, size = shape(config), BYTES[precision]
    options = {"dropout": found.dropout, "isolated": isolated, "gpu": gpu}
    target = targets(seq_len, target_len)
    stacks = [(found.main, seq_len, 0)] + ([(found.decoder, target, seq_len)] if found.decoder else [])
    outside = sum(tokens * _values(s.outer, s.outer_upcast, s.outer_dropped, size, options) for s, tokens, _ in stacks)
    blocks = [_block(stack, tokens, memory, size, options) for stack, tokens, memory in stacks]
    if checkpointing:
        inputs = sum(stack.layers * tokens * stack.width * size for stack, tokens, _ in stacks)
        return outside + inputs + max(blocks)
    return outside + sum(stack.layers * block for (stack, _, _), block in zip(stacks, blocks, strict=True))


def _block(stack: Stack, tokens: int, memory: int, size: int, options: dict[str, bool]) -> int:
    """Bytes that one block keeps of `tokens` tokens of a row, whose encoder's output has `memory`."""
    dropout, wide = options["dropout"], BYTES["fp32"]
    copied = stack.copied if dropout else 0
    linear = tokens * (_values(stack.kept, stack.upcast, stack.dropped, size, options) + copied * size)
    linear += memory * stack.memory_kept * size
    if not stack.heads:
        return round(linear * ISOLATED_STATES) if options["isolated"] else linear
    if options["gpu"] or not (dropout or stack.biased):
        return linear + (size * tokens * tokens if options["isolated"] else 0)
    # Not fused: it works in fp32 on queries, keys and values. With dropout it keeps the probabilities, their mask and
    # their product, and the attention to the encoder's output is of the same kind.
    upcast = 3 * tokens + (tokens + 2 * memory if dropout and memory else 0)
    linear += upcast * stack.heads * stack.head_dim * (wide - size)
    pairs = 3 * tokens * (tokens + memory) if dropout else tokens * tokens
    return linear + wide * stack.heads * pairs


def _values(kept: int, upcast: int, dropped: int, size: int, options: dict[str, bool]) -> int:
    """Bytes of `kept` values, of which `upcast` are fp32, and of the masks of `dropped` values."""
    masks = dropped * (1 if options["gpu"] else size) if options["dropout"] else 0
    return kept * size + upcast * (BYTES["fp32"] - size) + masks
