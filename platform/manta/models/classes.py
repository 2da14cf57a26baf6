"""Which class of Transformers an objective trains, for our families and for every other type of model."""

from __future__ import annotations

from typing import Any

from manta.errors import InputError
from manta.models import families
from manta.models.families import Config, Kind

# objective -> Transformers' automatic class, and its table of model types.
AUTO = {
    "clm": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "distillation": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "mlm": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "multi_mlm": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "nsp": ("AutoModelForPreTraining", "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES"),
    "denoising": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "sequence_labels": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "token_labels": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"),
    "spans": ("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES"),
    "preference": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "contrast": ("AutoModel", "MODEL_MAPPING_NAMES"),
}


def suited(config: Config, objective: str) -> dict[str, Any]:
    """`config` with the class that `objective` trains as its `architectures`.

    Raises InputError if there is none. Loads torch for model types that are no family of ours.
    """
    name = str(config["model_type"])
    if name in families.BY_NAME:
        return families.suited(config, objective)
    from transformers.models.auto import modeling_auto

    found_kind = kind(config)
    if found_kind not in families.KINDS[objective]:
        raise families.mismatch(name, found_kind, objective)
    if name not in getattr(modeling_auto, AUTO[objective][1]):
        if objective in families.HEADS:
            raise families.mismatch(name, found_kind, objective)
        raise InputError(
            f"objective.name = {objective!r}: Transformers has no class for it with models of type {name!r}: set "
            "objective.name=mlm, or choose model.family=bert"
        )
    table = "MODEL_FOR_PRETRAINING_MAPPING_NAMES" if objective == "nsp" else AUTO[objective][1]
    found = getattr(modeling_auto, table)[name]
    return {**config, "architectures": [found if isinstance(found, str) else found[0]]}


def kind(config: Config) -> Kind:
    """What a model is; for types that are no family of ours as Transformers' tables tell it. Raises InputError."""
    name = str(config["model_type"])
    if name in families.FAMILIES:
        return families.FAMILIES[name]
    from transformers.models.auto import modeling_auto

    if name in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "encoder_decoder"
    # Encoders have a causal class too, for those who want to use them as decoders.
    if name in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        return "encoder"
    if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise InputError(
        f"model.config: Transformers has no language model of model_type = {name!r}: name another type, such as "
        f"{', '.join(families.BY_NAME)}"
    )


def auto(config: Config, objective: str) -> Any:
    """Transformers' automatic class for `objective`, which knows the type of this configuration. Raises InputError."""
    import transformers

    suited(config, objective)
    know(config)
    return getattr(transformers, AUTO[objective][0])


def know(config: Config) -> None:
    """Teach Transformers the type of this configuration, where it is one of our own."""
    if config["model_type"] == "lstm":
        from manta.models import lstm

        lstm.register()


def named(config: Config) -> Any:
    """The class that a configuration names in `architectures`. Raises InputError if it names none that exists."""
    import transformers

    if config["model_type"] == "lstm":
        from manta.models import lstm

        return lstm.LSTMForCausalLM
    name = (config.get("architectures") or ["none"])[0]
    if not hasattr(transformers, name):
        raise InputError(
            f"config.json names the class {name!r}, which Transformers does not have: set its architectures to one that it has"
        )
    return getattr(transformers, name)
