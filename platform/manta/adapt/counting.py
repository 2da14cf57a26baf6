"""How many weights a method moves, from config.json alone for the families, and by trying for other types of models."""

from __future__ import annotations

from typing import NamedTuple

from manta.adapt.targets import IA3, LORA, matches
from manta.models import formulas
from manta.models.families import BY_NAME, Config
from manta.models.families.family import headed, num_labels
from manta.sections.adapt import ALL_LINEAR, Adapt, BitFit, Freeze, Full, Ia3, Lora, Prefix, Prompt


class Linear(NamedTuple):
    """Equal linear layers: the end of their names, their sizes, how many the model has."""

    name: str
    inputs: int
    outputs: int
    number: int


def moving(config: Config, settings: Adapt) -> int:
    """The weights that move, of the class that `config` names in `architectures`.

    Targets of the recipe that name single layers in full are not known here and count as none.
    """
    total = formulas.num_parameters(config)
    if isinstance(settings, Full):
        return total
    if config["model_type"] not in BY_NAME:
        return _tried(config, settings)
    if isinstance(settings, Freeze):
        if settings.freeze_layers == "all":
            return head(config)
        return total - _below(config, settings.freeze_layers)
    return head(config) + _added(config, settings)


def _added(config: Config, settings: Lora | Ia3 | Prefix | Prompt | BitFit) -> int:
    """Weights that move beside the head's: those that the method adds, or biases and norms."""
    layers = linears(config)
    if isinstance(settings, Lora):
        wanted = settings.targets or LORA.get(config["model_type"], [])
        met = [n for n in layers if wanted == ALL_LINEAR or any(matches(n.name, target) for target in wanted)]
        lengths = sum(n.outputs * n.number for n in met) if settings.method == "dora" else 0
        return settings.rank * sum((n.inputs + n.outputs) * n.number for n in met) + lengths
    if isinstance(settings, Ia3):
        targets, feedforward = IA3.get(config["model_type"], ([], []))
        targets, feedforward = settings.targets or targets, settings.feedforward or feedforward
        met = [n for n in layers if any(matches(n.name, target) for target in targets)]
        return sum((n.inputs if n.name.endswith(tuple(feedforward)) else n.outputs) * n.number for n in met)
    found = formulas.shape(config)
    if isinstance(settings, Prefix):
        keys = sum(n.outputs for n in layers if n.name in ("self_attn.k_proj", "SelfAttention.k")) or found.main.width
        return settings.tokens * 2 * (found.decoder or found.main).layers * keys
    if isinstance(settings, Prompt):
        return settings.tokens * found.main.width
    stacks = [stack for stack in (found.main, found.decoder) if stack is not None]
    blocks = sum(stack.layers * (stack.weights + stack.memory_weights) for stack in stacks)
    # Below or above the blocks: the norm of GPT-2, of BERT's embeddings, of both stacks' of BART.
    return blocks - sum(n.inputs * n.outputs * n.number for n in layers) + 2 * len(stacks) * found.main.width


def head(config: Config) -> int:
    """Weights of the head that a task put on the model, BERT's pooler included; 0 for models that answer with text."""
    width, labels = formulas.shape(config).main.width, num_labels(config)
    biased = config["model_type"] not in ("llama", "gpt2")
    output = labels * width + (labels if biased else 0)
    if headed(config, "ForSequenceClassification"):
        return output + (width * width + width if config["model_type"] == "bert" else 0)
    return output if headed(config, "ForTokenClassification") or headed(config, "ForQuestionAnswering") else 0


def _below(config: Config, frozen: int) -> int:
    """Weights of the embeddings, and of the first `frozen` blocks, the encoder's first."""
    found, kind = formulas.shape(config), config["model_type"]
    width = found.main.width
    positions = {
        "gpt2": ("n_positions", 0, 1),
        "bert": ("max_position_embeddings", 2, 1),
        "bart": ("max_position_embeddings", 2, 2),
    }
    tables = config["vocab_size"] * width
    if kind in positions:
        key, more, stacks = positions[kind]  # BERT's two kinds of segments, BART's two unused places
        tables += stacks * (config[key] + (config.get("type_vocab_size", more) if kind == "bert" else more)) * width
        tables += 0 if kind == "gpt2" else stacks * 2 * width  # the embeddings' norm
    encoder = min(frozen, found.main.layers)
    blocks = encoder * found.main.weights
    if found.decoder is not None:
        decoder = min(frozen - encoder, found.decoder.layers)
        blocks += decoder * (found.decoder.weights + found.decoder.memory_weights)
        if kind == "t5":  # each stack's first block holds its relative positions
            blocks += (
                (min(encoder, 1) + min(decoder, 1))
                * config.get("relative_attention_num_buckets", 32)
                * found.main.heads
            )
    return int(tables + blocks)


def linears(config: Config) -> list[Linear]:
    """The linear layers of a family's blocks."""
    found, kind = formulas.shape(config), config["model_type"]
    main, decoder, width = found.main, found.decoder, found.main.width
    inside = main.heads * main.head_dim
    if kind == "llama":
        keys = (config.get("num_key_value_heads") or main.heads) * main.head_dim
        inner = config["intermediate_size"]
        sizes = [
            ("self_attn.q_proj", width, inside), ("self_attn.k_proj", width, keys), ("self_attn.v_proj", width, keys), ("self_attn.o_proj", inside, width),
            ("mlp.gate_proj", width, inner), ("mlp.up_proj", width, inner), ("mlp.down_proj", inner, width),
        ]  # fmt: skip
    elif kind == "gpt2":
        inner = config.get("n_inner") or 4 * width
        sizes = [("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width), ("mlp.c_fc", width, inner), ("mlp.c_proj", inner, width)]  # fmt: skip
    elif kind == "bert":
        inner = config["intermediate_size"]
        sizes = [(f"attention.self.{name}", width, width) for name in ("query", "key", "value")]
        sizes += [("attention.output.dense", width, width), ("intermediate.dense", width, inner), ("output.dense", inner, width)]  # fmt: skip
    elif decoder is not None:
        return _of_both(config, kind, main.layers, decoder.layers, width, inside)
    else:
        return []
    return [Linear(name, inputs, outputs, main.layers) for name, inputs, outputs in sizes]


def _of_both(config: Config, kind: str, encoder: int, decoder: int, width: int, inside: int) -> list[Linear]:
    """Those of T5 and BART: attention of both stacks and between them, and the feed-forward."""
    if kind == "t5":
        gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
        own, between, feed = "SelfAttention", "EncDecAttention", [("wi_0", "wi_1") if gated else ("wi",), ("wo",)]
        names, inners = ("q", "k", "v", "o"), [(config["d_ff"], encoder + decoder)]
    else:
        own, between, feed = "self_attn", "encoder_attn", [("fc1",), ("fc2",)]
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        inners = [(config["encoder_ffn_dim"], encoder), (config["decoder_ffn_dim"], decoder)]
    found = []
    for where, count in ((own, encoder + decoder), (between, decoder)):
        found += [Linear(f"{where}.{name}", width, inside, count) for name in names[:3]]
        found.append(Linear(f"{where}.{names[3]}", inside, width, count))
    for inner, count in inners:
        found += [Linear(name, width, inner, count) for name in feed[0]]
        found += [Linear(name, inner, width, count) for name in feed[1]]
    return found


def _tried(config: Config, settings: Adapt) -> int:
    """The same of any other type: counted on the model itself, without its weights' memory. Loads torch."""
    import torch
    from transformers import AutoConfig

    from manta.adapt.methods import apply
    from manta.models import classes

    known = AutoConfig.for_model(config["model_type"], **{k: v for k, v in config.items() if k != "model_type"})
    with torch.device("meta"):
        model = apply(classes.named(config)(known), settings)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
