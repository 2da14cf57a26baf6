"""The shape of models that are no family of ours: counted on the model itself, without its weights' memory."""

from __future__ import annotations

from typing import Any

from manta.models import classes
from manta.models.families import Config, Shape, Stack


def shape(config: Config) -> Shape:
    """Weights exactly, the rest as Llama's blocks of the same widths would have it. Loads torch.

    All experts of a mixture count as met by each token. Raises InputError if Transformers does not know the class.
    """
    import torch
    from transformers import AutoConfig

    known = AutoConfig.for_model(config["model_type"], **{k: v for k, v in config.items() if k != "model_type"})
    with torch.device("meta"):
        model = classes.named(config)._from_config(known, dtype=torch.float32)
    text = known.get_text_config()
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings()
    tables = {id(inputs)} | ({id(outputs.weight)} if outputs is not None else set())
    head = 0 if outputs is None else outputs.weight.numel()
    total = _count(model, set())
    if not known.is_encoder_decoder:
        main = _stack(text, text.num_hidden_layers, _count(model, tables))
        return _closed(Shape(main, text.vocab_size, head, 0, dropout=False), total)
    decoder_layers = next(
        getattr(text, key)
        for key in ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
        if hasattr(text, key)
    )
    main = _stack(text, text.num_hidden_layers, _count(model.get_encoder(), tables))
    decoder = _stack(text, decoder_layers, _count(model.get_decoder(), tables))
    return _closed(Shape(main, text.vocab_size, head, 0, dropout=False, decoder=decoder), total)


def _stack(text: Any, layers: int, weights: int) -> Stack:
    hidden, heads = text.hidden_size, text.num_attention_heads
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    return Stack(
        layers=layers,
        width=hidden,
        weights=weights // layers,
        kept=8 * hidden + 2 * hidden + 4 * inner,
        upcast=2 * hidden,
        heads=heads,
        head_dim=getattr(text, "head_dim", None) or hidden // heads,
        outer=3 * hidden,
        outer_upcast=hidden,
    )


def _count(module: Any, without: set[int]) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in without)


def _closed(found: Shape, total: int) -> Shape:
    """The shape with all that lies outside its blocks, so that its total is exact."""
    from dataclasses import replace

    return replace(found, aside=total - found.total)
