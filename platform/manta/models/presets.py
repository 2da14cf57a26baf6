"""How a recipe's `model` section becomes a Transformers configuration: presets, overrides, or a config.json."""

from __future__ import annotations

import difflib
import json
from typing import Any

from manta.errors import InputError
from manta.models.build import build
from manta.models.families import BY_NAME, Family, suited
from manta.models.families.family import filled
from manta.sections.model import NewModel
from manta.storage import Folder

PRESETS: dict[str, dict[str, Any]] = {
    name: sizes for family in BY_NAME.values() for name, sizes in family.presets.items()
}
OF_PRESET = {name: family for family in BY_NAME for name in BY_NAME[family].presets}
# What a config.json says of the weights it came with, not of the model.
NOT_SHAPE = (
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "id2label",
    "label2id",
)


def preset(model: NewModel) -> str:
    """The preset's name. Raises InputError if it is of another family than the one that is named."""
    family = model.family or (OF_PRESET[model.preset] if model.preset else "llama")
    chosen = model.preset or BY_NAME[family].default
    if OF_PRESET[chosen] != family:
        raise InputError(
            f"model.preset = {chosen!r} is not of model.family = {family!r}: choose model.preset of "
            f"{', '.join(BY_NAME[family].presets)}, or leave model.family out"
        )
    return chosen


def sizes(model: NewModel) -> dict[str, Any]:
    """The preset's sizes with the recipe's overrides; none for a model of model.config, which has its own names.

    Raises InputError when they do not fit each other, or the family has no such size.
    """
    given = model.model_dump(exclude={"family", "preset"}, exclude_none=True)
    if "config" in given:
        return {}
    name = preset(model)
    family = BY_NAME[OF_PRESET[name]]
    chosen = {**PRESETS[name], **given}
    if unknown := [key for key in given if key not in PRESETS[name]]:
        raise InputError(
            f"model.{unknown[0]} = {given[unknown[0]]!r}: models of the family {OF_PRESET[name]} have no such size, but "
            f"{', '.join(PRESETS[name])}: leave it out"
        )
    if "num_heads" in chosen:
        _check_heads(family, chosen)
    return chosen


def _check_heads(family: Family, chosen: dict[str, Any]) -> None:
    hidden, heads = chosen["hidden_size"], chosen["num_heads"]
    step = 2 if family.even_heads else 1
    if hidden % heads or (hidden // heads) % step:
        raise InputError(
            f"model.num_heads = {heads} does not divide model.hidden_size = {hidden} into heads of "
            f"{'even width' if family.even_heads else 'one width'}: set model.num_heads to {_nearest_heads(hidden, heads, step)}"
        )
    kv_heads = chosen.get("num_kv_heads", heads)
    if heads % kv_heads:
        raise InputError(
            f"model.num_kv_heads = {kv_heads} does not divide model.num_heads = {heads}: "
            f"set model.num_kv_heads={next(n for n in range(min(kv_heads, heads), 0, -1) if heads % n == 0)}"
        )


def _nearest_heads(hidden: int, heads: int, step: int) -> int:
    fitting = [n for n in range(1, hidden + 1) if hidden % n == 0 and (hidden // n) % step == 0] or [1]
    return min(fitting, key=lambda n: abs(n - heads))


def config(model: NewModel, vocab_size: int, special: dict[str, int | None], objective: str = "clm") -> dict[str, Any]:
    """The content of config.json for a new model that `objective` trains.

    `special` holds bos_token_id, eos_token_id and pad_token_id, or nothing where they are not known yet. Vocabulary and
    special ids are the tokenizer's, also where a config.json says otherwise. Raises InputError for sizes that do not fit
    each other, and for a model that the objective does not train. Loads torch for model types of `model.config` that
    are no family of ours.
    """
    given = model.model_dump(exclude_none=True)
    if "config" in given:
        return _of_config(content(given["config"]), vocab_size, special, objective)
    chosen = sizes(model)
    name = OF_PRESET[preset(model)]
    made = {"model_type": name, "vocab_size": vocab_size, **BY_NAME[name].config(chosen, special)}
    return suited(made, objective)


def content(setting: str | dict[str, Any]) -> dict[str, Any]:
    """The configuration that model.config names or holds. Raises InputError if it is none."""
    where, found = "model.config", setting
    if isinstance(setting, str):
        where = f"model.config = {setting!r}"
        path, _, name = setting.rpartition("/")
        try:
            found = json.loads(Folder(path or ".").read_text(name))
        except FileNotFoundError:
            raise InputError(f"{where} does not exist: check the path") from None
        except ValueError as error:
            raise InputError(f"{where} is not JSON ({error}): name the config.json of a model") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise InputError(
            f"{where} does not say its model_type: add one that Transformers knows, such as {', '.join(BY_NAME)}"
        )
    if "quantization_config" in found:
        raise InputError(f"{where} is of compressed weights, which are not trained: take its quantization_config out")
    return dict(found)


def _of_config(
    given: dict[str, Any], vocab_size: int, special: dict[str, int | None], objective: str
) -> dict[str, Any]:
    """The configuration with what it leaves out, the tokenizer's ids and the objective's class."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from manta.models import classes

    name = given["model_type"]
    classes.know(given)
    if name not in CONFIG_MAPPING:
        near = difflib.get_close_matches(name, CONFIG_MAPPING, n=1)
        raise InputError(
            f"model.config.model_type = {name!r} is none that Transformers knows: "
            + (f"did you mean {near[0]!r}?" if near else f"choose one such as {', '.join(BY_NAME)}")
        )
    if name == "t5" and not given.get("tie_word_embeddings", True):
        raise InputError(
            "model.config.tie_word_embeddings = false (T5 v1.1): Transformers ties a new T5 all the same, and then leaves "
            "out the scale that makes up for it: set it to true"
        )
    kept = {key: value for key, value in given.items() if key not in (*NOT_SHAPE, "model_type")}
    try:
        whole = AutoConfig.for_model(name, **kept).to_dict()
        whole = {key: value for key, value in whole.items() if key not in NOT_SHAPE}
        made = classes.suited({**whole, "vocab_size": vocab_size, **_ids(whole, special)}, objective)
        with torch.device("meta"):  # sizes that do not fit each other are refused here, not when workers run
            build(made, 0, objective)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise InputError(f"model.config is refused by Transformers: {error}: mend this in it") from None
    return made


def _ids(whole: dict[str, Any], special: dict[str, int | None]) -> dict[str, int | None]:
    """The tokenizer's special ids, where a configuration's decoder starts from one of them that one too."""
    if not special or not whole.get("is_encoder_decoder"):
        return special
    starts_with_end = whole.get("decoder_start_token_id") not in (None, whole.get("pad_token_id"))
    ids = filled(special, start="eos" if starts_with_end else "pad")
    if whole.get("forced_eos_token_id") is not None:
        ids["forced_eos_token_id"] = ids["eos_token_id"]
    return ids
