"""The few files that let sentence-transformers open a Hugging Face directory as the encoder that it was trained to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What happens to a text, in order: the model itself, the mean of its states, their length.
MODULES = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))


def write(folder: Path, max_tokens: int) -> None:
    """Write modules.json and what it names below a directory with config.json. Texts are cut to `max_tokens`."""
    from transformers import AutoConfig

    width = AutoConfig.from_pretrained(folder, local_files_only=True).hidden_size  # of whatever name it is stored under
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
        for place, (name, path) in enumerate(MODULES)
    ]
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    _write(
        folder / "1_Pooling/config.json",
        pooling | dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_max_tokens"), False),
    )
    _write(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def _write(file: Path, data: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
