"""Ten pairs of sentences in two languages, and tiny models that read them: a T5, a BART and a Llama, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORDS = [("dog", "Hund"), ("cat", "Kater"), ("house", "Haus"), ("tree", "Baum"), ("king", "König")]
PAIRS = [
    {"input": f"the {adjective} {noun} sleeps", "target": f"der {other} {wort} schläft"}
    for adjective, other in (("old", "alte"), ("small", "kleine"))
    for noun, wort in WORDS
]
TASK = {
    "name": "translation", "source_language": "English", "target_language": "German", "max_input_tokens": 40,
    "max_target_tokens": 24,
}  # fmt: skip
SPOKEN = "translate English to German: "
TEXTS = [SPOKEN, *(example[side] for example in PAIRS for side in ("input", "target"))]


def tokenizer(folder: Path, texts: Iterable[str] = TEXTS, **given: Any) -> Any:
    """A tokenizer that `prepare` would leave in the folder, trained on the texts."""
    from transformers import AutoTokenizer

    from manta.data import tokenizer as tokenizers
    from manta.sections.prepare import Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizers.make(Tokenizer.model_validate(given), None, iter(list(texts) * 3), folder)
    return AutoTokenizer.from_pretrained(folder)


def t5(folder: Path) -> Path:
    """A Hugging Face directory of a T5 as our pre-training leaves it: texts end with </s>."""
    import torch
    import transformers

    from manta.models.presets import config
    from manta.sections.model import NewModel

    found = tokenizer(folder, type="unigram", vocab_size=460, sentinels=8)
    special = {"bos_token_id": None, "eos_token_id": found.eos_token_id, "pad_token_id": found.pad_token_id}
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_heads": 3, "num_layers": 1, "num_decoder_layers": 1}
    made = config(
        NewModel.model_validate({"preset": "t5-tiny", "dropout": 0.0, **sizes}), len(found), special, "denoising"
    )
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(transformers.T5Config(**made)).save_pretrained(folder)
    return folder


def bart(
    folder: Path,
    texts: Iterable[str] = TEXTS,
    seed: int = 0,
    vocab_size: int = 420,
    init_std: float = 0.02,
    **given: Any,
) -> Path:
    """A Hugging Face directory of a BART as our pre-training leaves it: its tokenizer sets no special tokens."""
    import torch
    import transformers

    from manta.models.presets import config
    from manta.sections.model import NewModel

    found = tokenizer(folder, texts, vocab_size=vocab_size)
    special = {
        "bos_token_id": found.bos_token_id,
        "eos_token_id": found.eos_token_id,
        "pad_token_id": found.pad_token_id,
    }
    sizes = {
        "hidden_size": 48, "intermediate_size": 96, "num_heads": 3, "num_layers": 1, "num_decoder_layers": 1,
        "max_position_embeddings": 48,
    } | given  # fmt: skip
    made = config(
        NewModel.model_validate({"preset": "bart-tiny", "dropout": 0.0, **sizes}), len(found), special, "denoising"
    )
    torch.manual_seed(seed)
    settings = transformers.BartConfig(**made | {"init_std": init_std})
    transformers.BartForConditionalGeneration(settings).save_pretrained(folder)
    return folder


def llama(folder: Path, texts: Iterable[str] = TEXTS, seed: int = 0, vocab_size: int = 420, **given: Any) -> Path:
    """A Hugging Face directory of a Llama with a chat template."""
    import torch
    import transformers

    found = tokenizer(folder, texts, vocab_size=vocab_size)
    sizes = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 3,
        "num_key_value_heads": 3, "max_position_embeddings": 128, "tie_word_embeddings": True,
    } | given  # fmt: skip
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(vocab_size=len(found), **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
