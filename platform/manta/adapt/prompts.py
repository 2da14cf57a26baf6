"""Methods that put learnt tokens before the text, by peft: as keys and values in every layer, or as embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.adapt import parts
from manta.adapt.layers import new_heads
from manta.adapt.writing import Writers, write_adapter
from manta.errors import InputError
from manta.sections.adapt import Prefix, Prompt

LEAVES = (
    "it leaves adapter/ for peft and no model/: what stands before the text is no part of the weights, so `manta compress`, "
    "`evaluate` and `serve` cannot take it (adapt.method=lora leaves what they take)"
)
# Whose answers are places in the text: the learnt tokens' own are cut off.
BY_PLACE = ("CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS")
DEVIATION = 0.02  # as most models' own weights start


def apply_prefix(model: Any, settings: Prefix) -> Any:
    """Keys and values of `tokens` places in every layer (Li and Liang 2021, arXiv:2101.00190), of N(0, 0.02).

    Learnt directly, not through the paper's feed-forward. An encoder-decoder's decoder alone has them. Raises
    InputError where the model's attention takes none.
    """
    import torch
    from peft import PrefixTuningConfig, get_peft_model

    _check(model, settings)
    config = PrefixTuningConfig(
        task_type=parts.task_type(model),
        num_virtual_tokens=settings.tokens,
        modules_to_save=new_heads(model),
        **_decoder_sizes(model.config),
    )
    adapted = get_peft_model(model, config)
    torch.nn.init.normal_(adapted.prompt_encoder["default"].embedding.weight, std=DEVIATION)
    return _guarded(adapted, settings)


def apply_prompt(model: Any, settings: Prompt) -> Any:
    """`tokens` embeddings before the text's own (Lester et al. 2021, arXiv:2104.08691), starting as those of random tokens.

    An encoder-decoder reads them in the encoder. Raises InputError where the model cannot read embeddings.
    """
    from peft import PromptTuningConfig, get_peft_model

    _check(model, settings)
    task = parts.task_type(model)
    if task == "SEQ_CLS" and "classifier" not in parts.heads(model):
        raise InputError(
            f"adapt.method = 'prompt': {type(model).__name__} finds the end of a text by its tokens, and reads embeddings here: "
            "set adapt.method=prefix or lora"
        )
    config = PromptTuningConfig(
        task_type=task,
        num_virtual_tokens=settings.tokens,
        num_transformer_submodules=1,
        prompt_tuning_init="SAMPLE_VOCAB",
        modules_to_save=new_heads(model),
    )
    adapted = _guarded(get_peft_model(model, config), settings)
    if task in BY_PLACE:
        adapted.register_forward_hook(lambda _, __, output: _cut(output, settings.tokens))
    return adapted


def export(model: Any, weights: Mapping[str, Any], settings: Prefix | Prompt) -> Writers:
    """The PEFT directory. There is nothing to merge."""
    del settings
    learnt = {"prompt_embeddings": weights["prompt_encoder.default.embedding.weight"]}
    for name, tensor in weights.items():
        if ".modules_to_save.default." in name:
            learnt[name.replace(".modules_to_save.default.", ".")] = tensor
    return {"adapter": lambda folder: write_adapter(model, learnt, folder)}


def stands_before(model: Any) -> bool:
    """Whether `apply` put learnt tokens before the text."""
    return hasattr(model, "prompt_encoder")


def _check(model: Any, settings: Prefix | Prompt) -> None:
    task = parts.task_type(model)
    labelling = task in parts.LABELLING.values()
    unfit = task == "FEATURE_EXTRACTION" or (labelling and model.config.is_encoder_decoder)
    if not hasattr(model.config, "num_attention_heads") or unfit:
        raise InputError(
            f"adapt.method = {settings.method!r} puts learnt tokens before the text, which {type(model).__name__} cannot take: set "
            "adapt.method=full or freeze, or lora where the model has linear layers"
        )


def _decoder_sizes(config: Any) -> dict[str, int]:
    """The sizes of an encoder-decoder's decoder, which peft takes from the encoder; of other models it reads its own."""
    if not config.is_encoder_decoder:
        return {}
    layers = next(getattr(config, key) for key in ("num_decoder_layers", "decoder_layers") if hasattr(config, key))
    heads = getattr(config, "decoder_attention_heads", config.num_attention_heads)
    width = getattr(config, "d_kv", config.d_model // heads)
    return {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * width}


def _guarded(adapted: Any, settings: Prefix | Prompt) -> Any:
    """The model, which refuses rows and settings that it would read wrongly without a word."""
    config = adapted.get_base_model().config
    places = next(
        (getattr(config, key) for key in ("max_position_embeddings", "n_positions") if hasattr(config, key)), None
    )

    def look(module: Any, _: Any, given: dict[str, Any]) -> None:
        length = given["input_ids"].shape[1] + settings.tokens
        if places is not None and length > places:
            raise InputError(
                f"adapt.tokens = {settings.tokens} and a row of {length - settings.tokens} tokens exceed the model's {places} positions: "
                "lower adapt.tokens, or the task's tokens"
            )
        if given.get("position_ids") is not None:
            raise InputError(
                f"adapt.method = {settings.method!r} stands before one text, and a row holds several: set adapt.method=lora"
            )
        checkpointed = any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
        if settings.method == "prefix" and checkpointed:
            raise InputError(
                "resources.activation_checkpointing = True forgets keys and values, which adapt.method = 'prefix' learns: set it to "
                "false, or adapt.method=prompt"
            )

    adapted.register_forward_pre_hook(look, with_kwargs=True)
    return adapted


def _cut(output: Any, tokens: int) -> Any:
    for key in ("logits", "start_logits", "end_logits"):
        if key in output:
            output[key] = output[key][:, tokens:]
    return output
