"""What a model of Transformers is made of: its head, its blocks, its embeddings, its linear layers."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError

# How the classes end that have a head of their own, and PEFT's word for them.
LABELLING = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


def task_type(model: Any) -> str:
    """PEFT's word for what the model's class is for."""
    name = type(model).__name__
    for ending, task in LABELLING.items():
        if name.endswith(ending):
            return task
    if name.endswith("Model") and not name.endswith("HeadModel"):
        return "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def heads(model: Any) -> list[str]:
    """The modules that a task adds to a pretrained body, by name; none for models that answer with text.

    The body's pooler, which only sequences' labels need, is one of them: most pretrained models come without it.
    """
    if task_type(model) not in LABELLING.values():
        return []
    body = model.base_model_prefix
    found = [name for name, child in model.named_children() if name != body and _has_weights(child)]
    return found + ([f"{body}.pooler"] if _has_weights(getattr(getattr(model, body), "pooler", None)) else [])


def blocks(model: Any) -> list[Any]:
    """The equal blocks from the input upwards, an encoder's before its decoder's. Raises InputError if there are none."""
    import torch

    found: list[Any] = []
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        if isinstance(module, torch.nn.ModuleList) and len({type(item) for item in module}) == 1:
            inside = (*inside, f"{name}.")
            found += list(module) if _has_weights(module) else []
    if not found:
        raise InputError(
            f"adapt.method = 'freeze': {type(model).__name__} has no list of equal layers: set another method"
        )
    return found


def embeddings(model: Any) -> list[Any]:
    """The parameters below the blocks: tables of tokens, positions and kinds, and the norms that belong to them.

    An output layer that is tied to them is among them; one of its own is not.
    """
    import torch

    output = model.get_output_embeddings()
    without = {id(p) for p in output.parameters()} if output is not None else set()
    for part in [*blocks(model), *(model.get_submodule(name) for name in heads(model))]:
        without |= {id(parameter) for parameter in part.parameters()}
    without.discard(id(model.get_input_embeddings().weight))
    found = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) or "embed" in name.lower():
            found += [p for p in module.parameters(recurse=False) if id(p) not in without]
    return found


def linears(model: Any) -> dict[str, Any]:
    """Full name -> linear layer (torch's, or the transposed kind of GPT-2), without heads and output layers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    skip = tuple(f"{name}." for name in heads(model))
    output = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
        and module is not output
        and not f"{name}.".startswith(skip or "\0")
    }


def is_transposed(module: Any) -> bool:
    """Whether a linear layer's weight is (in, out) instead of (out, in)."""
    import torch

    return not isinstance(module, torch.nn.Linear)


def _has_weights(module: Any) -> bool:
    return module is not None and next(module.parameters(), None) is not None
