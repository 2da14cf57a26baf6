"""Tiny models of every family to adapt, with text as an answer or with a head, and a few steps of training on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from manta.sections.adapt import Adapt, BitFit, Freeze, Full, Ia3, Lora, Prefix, Prompt

VOCAB, ROWS, SEQ, LABELS = 96, 2, 12, 3
PAD = 1
# family -> config.json without its class; dropout 0, so that answers can be compared.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "t5": {"d_model": 32, "d_ff": 48, "d_kv": 16, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4, "dropout_rate": 0.0, "decoder_start_token_id": PAD},
    "bart": {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 2, "max_position_embeddings": 64, "dropout": 0.0, "attention_dropout": 0.0, "decoder_start_token_id": 2},
}  # fmt: skip
# What is tried: (family, class).
CLASSES: dict[str, tuple[str, str]] = {
    "llama": ("llama", "LlamaForCausalLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "t5": ("t5", "T5ForConditionalGeneration"),
    "bart": ("bart", "BartForConditionalGeneration"),
    "bert-texts": ("bert", "BertForSequenceClassification"),
    "bert-words": ("bert", "BertForTokenClassification"),
    "bert-spans": ("bert", "BertForQuestionAnswering"),
    "llama-texts": ("llama", "LlamaForSequenceClassification"),
    "gpt2-texts": ("gpt2", "GPT2ForSequenceClassification"),
}
METHODS: dict[str, Adapt] = {
    "full": Full(method="full"),
    "freeze": Freeze(method="freeze", freeze_layers=2),
    "head": Freeze(method="freeze", freeze_layers="all"),
    "lora": Lora(method="lora", rank=4, alpha=12.0),
    "rslora": Lora(method="lora", rank=4, alpha=12.0, rslora=True),
    "all-linear": Lora(method="lora", rank=2, targets="all-linear"),
    "dora": Lora(method="dora", rank=4, alpha=12.0),
    "ia3": Ia3(method="ia3"),
    "prefix": Prefix(method="prefix", tokens=5),
    "prompt": Prompt(method="prompt", tokens=5),
    "bitfit": BitFit(method="bitfit"),
}
# What is refused, and why is tested by itself.
REFUSED = {
    *((name, "head") for name, (_, kind) in CLASSES.items() if kind.endswith(("LM", "Model", "Generation"))),
    ("llama", "bitfit"), ("llama-texts", "bitfit"), ("t5", "bitfit"),
    ("llama-texts", "prompt"), ("gpt2-texts", "prompt"),
}  # fmt: skip
FITTING = [(name, method) for name in CLASSES for method in METHODS if (name, method) not in REFUSED]


def config(name: str) -> dict[str, Any]:
    """The whole config.json of one of CLASSES."""
    family, kind = CLASSES[name]
    labels = {"id2label": {i: f"l{i}" for i in range(LABELS)}} if "texts" in name or "words" in name else {}
    return {
        "model_type": family,
        "architectures": [kind],
        "vocab_size": VOCAB,
        "pad_token_id": PAD,
        **CONFIGS[family],
        **labels,
    }


def make(name: str, seed: int = 0) -> Any:
    """A new model of one of CLASSES, biases too at random; the same weights for the same seed."""
    import transformers

    settings = {key: value for key, value in config(name).items() if key not in ("model_type", "architectures")}
    family, kind = CLASSES[name]
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(transformers.AutoConfig.for_model(family, **settings)).train()
    for key, parameter in model.named_parameters():
        if key.endswith(".bias"):  # new ones are 0, with which no mistake would show
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def inputs(name: str, seed: int = 1) -> dict[str, Any]:
    """What a model of CLASSES reads: two rows, of which the second is padded."""
    torch.manual_seed(seed)
    ids = torch.randint(3, VOCAB, (ROWS, SEQ))
    if name in ("llama", "gpt2"):
        return {"input_ids": ids, "use_cache": False}
    ids[1, 8:] = PAD
    given = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    if name.startswith("bert"):
        given["token_type_ids"] = torch.zeros_like(ids)
    if name in ("t5", "bart"):
        given |= {"decoder_input_ids": torch.randint(3, VOCAB, (ROWS, 6)), "use_cache": False}
    return given


def answers(model: Any, name: str) -> Any:
    """Every number that the model answers with, flat."""
    found = model(**inputs(name))
    return torch.cat([found[key].reshape(-1) for key in ("logits", "start_logits", "end_logits") if key in found])


@torch.no_grad()
def judged(model: Any, name: str) -> Any:
    return answers(model.eval(), name)


def train(model: Any, name: str, steps: int = 3) -> None:
    """A few steps of AdamW on whatever may move, towards answers that nothing gives at the start."""
    wanted: Any = None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        found = answers(model.train(), name)
        torch.manual_seed(7)
        wanted = torch.randn(found.shape)
        ((found - wanted) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def state(model: Any) -> dict[str, Any]:
    """All weights, copied."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def write(writers: Mapping[str, Callable[[Path], None]], folder: Path) -> None:
    for name, writer in writers.items():
        (folder / name).mkdir(parents=True)
        writer(folder / name)
