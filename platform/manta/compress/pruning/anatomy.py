"""Where the channels of a model lie: which axis of which weight follows which size. A type of model is a table entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from manta.errors import InputError

# Axes of weights. A model has one hidden and one vocabulary axis; each block has its own queries, keys and intermediate.
HIDDEN, VOCABULARY, QUERIES, KEYS, INTERMEDIATE = "hidden", "vocabulary", "queries", "keys", "intermediate"
FUSED = "fused"  # queries, keys and values one behind the other, of as many heads each
OTHER = "other"  # labels and the like: never cut


class Linear(NamedTuple):
    """The axes of what a layer reads and gives. Its bias, where there is one, has those of what it gives."""

    reads: str
    gives: str


@dataclass(frozen=True)
class Anatomy:
    """Names are those of modules, without the prefix of the model's body ("model.") and, in a block, without its own.

    `keys` are config.json's names of sizes: layers, hidden, intermediate, heads, and where there are such groups
    (heads that share keys and values), eps (of the norms).
    """

    blocks: str
    keys: Mapping[str, str]
    block: Mapping[str, Linear]
    norms: tuple[str, ...]  # in a block
    outside: Mapping[str, Linear]
    outer_norms: tuple[str, ...]
    tables: tuple[str, ...]  # looked up by token
    other_tables: tuple[str, ...] = ()  # looked up by position and the like
    vocabulary_biases: tuple[str, ...] = ()
    down: str = ""  # in a block: what reads the intermediate channels
    out: str = ""  # and the heads'
    centred: bool = False  # norms take the mean away
    # Weights are stored as (reads, gives).
    transposed: bool = False
    own_head_dim: bool = True  # else a head is hidden size / heads wide


LLAMA = Anatomy(
    blocks="layers",
    keys={
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "intermediate": "intermediate_size",
        "heads": "num_attention_heads",
        "groups": "num_key_value_heads",
        "eps": "rms_norm_eps",
    },
    block={
        "self_attn.q_proj": Linear(HIDDEN, QUERIES),
        "self_attn.k_proj": Linear(HIDDEN, KEYS),
        "self_attn.v_proj": Linear(HIDDEN, KEYS),
        "self_attn.o_proj": Linear(QUERIES, HIDDEN),
        "mlp.gate_proj": Linear(HIDDEN, INTERMEDIATE),
        "mlp.up_proj": Linear(HIDDEN, INTERMEDIATE),
        "mlp.down_proj": Linear(INTERMEDIATE, HIDDEN),
    },
    norms=("input_layernorm", "post_attention_layernorm"),
    outside={"lm_head": Linear(HIDDEN, VOCABULARY), "score": Linear(HIDDEN, OTHER)},
    outer_norms=("norm",),
    tables=("embed_tokens",),
    down="mlp.down_proj",
    out="self_attn.o_proj",
)
GPT2 = Anatomy(
    blocks="h",
    keys={
        "layers": "n_layer",
        "hidden": "n_embd",
        "intermediate": "n_inner",
        "heads": "n_head",
        "eps": "layer_norm_epsilon",
    },
    block={
        "attn.c_attn": Linear(HIDDEN, FUSED),
        "attn.c_proj": Linear(QUERIES, HIDDEN),
        "mlp.c_fc": Linear(HIDDEN, INTERMEDIATE),
        "mlp.c_proj": Linear(INTERMEDIATE, HIDDEN),
    },
    norms=("ln_1", "ln_2"),
    outside={"lm_head": Linear(HIDDEN, VOCABULARY), "score": Linear(HIDDEN, OTHER)},
    outer_norms=("ln_f",),
    tables=("wte",),
    other_tables=("wpe",),
    down="mlp.c_proj",
    out="attn.c_proj",
    centred=True,
    transposed=True,
    own_head_dim=False,
)
BERT = Anatomy(
    blocks="encoder.layer",
    keys={
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "intermediate": "intermediate_size",
        "heads": "num_attention_heads",
        "eps": "layer_norm_eps",
    },
    block={
        "attention.self.query": Linear(HIDDEN, QUERIES),
        "attention.self.key": Linear(HIDDEN, QUERIES),
        "attention.self.value": Linear(HIDDEN, QUERIES),
        "attention.output.dense": Linear(QUERIES, HIDDEN),
        "intermediate.dense": Linear(HIDDEN, INTERMEDIATE),
        "output.dense": Linear(INTERMEDIATE, HIDDEN),
    },
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    outside={
        "pooler.dense": Linear(HIDDEN, HIDDEN),
        "cls.predictions.transform.dense": Linear(HIDDEN, HIDDEN),
        "cls.predictions.decoder": Linear(HIDDEN, VOCABULARY),
        "cls.seq_relationship": Linear(HIDDEN, OTHER),
        "classifier": Linear(HIDDEN, OTHER),
        "qa_outputs": Linear(HIDDEN, OTHER),
    },
    outer_norms=("embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"),
    tables=("embeddings.word_embeddings",),
    other_tables=("embeddings.position_embeddings", "embeddings.token_type_embeddings"),
    vocabulary_biases=("cls.predictions.bias",),
    down="output.dense",
    out="attention.output.dense",
    centred=True,
    own_head_dim=False,
)

# model_type of config.json -> where its channels lie.
ANATOMIES: dict[str, Anatomy] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "gpt2": GPT2,
    "bert": BERT,
}


def of(config: Mapping[str, Any], setting: str) -> Anatomy:
    """The entry for the type of `config`, the content of a config.json. Raises InputError, naming `setting`, if there is none."""
    kind = str(config["model_type"])
    if kind not in ANATOMIES:
        raise InputError(
            f"{setting}: a model of type {kind!r} cannot be cut: leave {setting} out, or name a model.source of type "
            f"{', '.join(ANATOMIES)}"
        )
    return ANATOMIES[kind]


class Sizes(NamedTuple):
    """The sizes of a model. `groups` are heads' keys and values: as many as heads, or fewer."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    groups: int
    head_dim: int


def sizes(config: Mapping[str, Any], anatomy: Anatomy) -> Sizes:
    """The sizes that config.json states, with what it leaves to its type's rules."""
    keys = anatomy.keys
    layers, hidden, heads = (int(config[keys[name]]) for name in ("layers", "hidden", "heads"))
    groups = config.get(keys["groups"]) if "groups" in keys else None
    return Sizes(
        layers=layers,
        hidden=hidden,
        intermediate=int(config.get(keys["intermediate"]) or 4 * hidden),
        heads=heads,
        groups=int(groups or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
    )


def place(name: str, prefix: str, anatomy: Anatomy) -> tuple[int | None, str]:
    """A parameter's block (None: outside) and its name there. `prefix` is that of the model's body, such as "model"."""
    bare = name.removeprefix(f"{prefix}.")
    if not bare.startswith(f"{anatomy.blocks}."):
        return None, bare
    number, _, rest = bare.removeprefix(f"{anatomy.blocks}.").partition(".")
    return int(number), rest


def axes(name: str, inside: bool, anatomy: Anatomy) -> tuple[str, ...]:
    """The axis of each dimension of a parameter, `name` as `place` gives it. Raises KeyError for one the table lacks."""
    module, _, kind = name.rpartition(".")
    if name in anatomy.vocabulary_biases:
        return (VOCABULARY,)
    if module in (anatomy.norms if inside else anatomy.outer_norms):
        return (HIDDEN,)
    if module in anatomy.tables:
        return (VOCABULARY, HIDDEN)
    if module in anatomy.other_tables:
        return (OTHER, HIDDEN)
    linear = (anatomy.block if inside else anatomy.outside)[module]
    if kind == "bias":
        return (linear.gives,)
    return (linear.reads, linear.gives) if anatomy.transposed and inside else (linear.gives, linear.reads)
