"""What a family of models states about itself, and what its blocks cost: plain numbers, for presets and formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["decoder", "encoder", "encoder_decoder"]
Config = Mapping[str, Any]  # the content of a config.json
# objective -> what the head that it trains is for, in words.
HEADS = {"sequence_labels": "labels of texts", "token_labels": "tags of words", "spans": "answers in a text"}


@dataclass(frozen=True)
class Stack:
    """Equal blocks, one above the other. `kept` is what the backward pass needs of the forward pass."""

    layers: int
    width: int  # of the stream from block to block
    weights: int  # of one block, all of which meet each token
    kept: int  # values of one token in one block, without dropout
    upcast: int = 0  # of them those in fp32 even where weights are bf16 (norms)
    dropped: int = 0  # values of one token in one block that dropout acts on: their mask is kept
    copied: int = 0  # values of one token in one block that are kept once more because dropout changed them
    heads: int = 0  # none: no attention
    head_dim: int = 0
    biased: bool = False  # attention adds a learnt bias
    outer: int = 0  # as `kept`, `upcast` and `dropped`, of what lies before and behind the blocks
    outer_upcast: int = 0
    outer_dropped: int = 0
    # Attention to the encoder's output: weights of one block that meet each of its tokens, and what is kept of those.
    memory_weights: int = 0
    memory_kept: int = 0


@dataclass(frozen=True)
class Shape:
    """A model as the formulas see it: the encoder or the only stack, and the decoder where there are two."""

    main: Stack
    vocab: int
    head: int  # weights outside the blocks that meet every token that is predicted from
    aside: int  # weights that meet none: tables that are looked up, heads that see one token of a row
    dropout: bool
    decoder: Stack | None = None

    @property
    def total(self) -> int:
        """All weights."""
        blocks = sum(s.layers * (s.weights + s.memory_weights) for s in (self.main, self.decoder) if s is not None)
        return blocks + self.head + self.aside


class Family(NamedTuple):
    """Named sizes; `config(sizes, special)` gives the family's part of config.json, `shape(config)` reads it back."""

    kind: Kind
    architectures: dict[str, str]  # objective -> class
    presets: dict[str, dict[str, Any]]
    default: str  # the preset, where a recipe names none
    positions: tuple[str, ...]  # keys of config.json that hold the longest row; none: no limit
    config: Callable[[dict[str, Any], dict[str, int | None]], dict[str, Any]]
    shape: Callable[[Config], Shape]
    even_heads: bool = False  # rotary positions turn pairs of values


def num_labels(config: Config) -> int:
    """How many labels a head of this configuration tells apart; Transformers' 2 where it names none."""
    return len(config.get("id2label") or (0, 1))


def headed(config: Config, head: str) -> bool:
    """Whether the class that a configuration names ends with `head`, such as "ForSequenceClassification"."""
    return any(name.endswith(head) for name in config.get("architectures") or ())


def filled(special: Mapping[str, int | None], start: str) -> dict[str, int | None]:
    """The special ids of an encoder-decoder model, with what its decoder reads first: `start` is "pad" or "eos".

    A tokenizer without a padding token fills up with the end of text, as the layouts do.
    """
    if not special:
        return {}
    eos, pad = special.get("eos_token_id"), special.get("pad_token_id")
    pad = eos if pad is None else pad
    return {**special, "pad_token_id": pad, "decoder_start_token_id": pad if start == "pad" else eos}
