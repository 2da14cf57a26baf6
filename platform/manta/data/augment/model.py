"""Asks a Hugging Face model in this process, one text at a time, so that an answer depends on nothing but its question."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.data.augment.job import Made
from manta.errors import InputError
from manta.sections.augment import Writer
from manta.storage import Folder

if TYPE_CHECKING:
    from manta.data.augment.writing import Ask


class Loaded(NamedTuple):
    """A model in fp32 on the CPU with its tokenizer. `positions`: tokens that it can tell apart, None where any number."""

    model: Any
    tokenizer: Any
    both: bool  # encoder and decoder
    positions: int | None
    ends: frozenset[int]  # tokens that end an answer


def answers(asks: Iterator[Ask], writer: Writer, where: str) -> Iterator[Made]:
    """The answers in order: greedy, or at a temperature drawn by each ask's own seed. Raises InputError.

    A tokenizer with a chat template gets the prompt as the user's message, any other model as plain text. Texts are not
    padded to batches: that would change, if ever so little, what a text's tokens see.
    """
    assert writer.model is not None
    loaded = load(writer.model, f"{where}.model")
    for ask in asks:
        yield _answer(loaded, ask, writer)


@functools.lru_cache(2)  # there and back
def load(path: str, where: str) -> Loaded:
    """The model at a local or remote path: a Hugging Face directory, or an artifact with one in `model`."""
    from transformers import AutoConfig, AutoTokenizer

    root = Folder(path)
    place = next((folder for folder in (root / "model", root) if folder.exists("config.json")), None)
    if place is None:
        raise InputError(
            f"{where} = {path!r} holds no model (config.json): name an artifact or a Hugging Face directory"
        )
    with place.local() as folder:
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            model = _class(config).from_pretrained(folder, dtype="float32", local_files_only=True).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or ["unreadable"])[0]
            raise InputError(
                f"{where} = {path!r} cannot be loaded: {reason}: choose a decoder or encoder-decoder"
            ) from error
    listed = model.generation_config.eos_token_id
    if listed is None:
        listed = tokenizer.eos_token_id
    ends = frozenset(listed if isinstance(listed, list) else [listed])
    if ends <= {None}:
        raise InputError(
            f"{where} = {path!r} names no token that ends a text (eos_token_id): add it to its generation_config.json"
        )
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Loaded(model, tokenizer, bool(config.is_encoder_decoder), positions, ends)


def _class(config: Any) -> Any:
    import transformers

    return transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM


def _answer(loaded: Loaded, ask: Ask, writer: Writer) -> Made:
    import torch

    ids = _tokens(loaded.tokenizer, ask.prompt)
    room = writer.max_new_tokens
    if loaded.positions is not None:
        room = min(room, loaded.positions - (0 if loaded.both else len(ids)))
        if room <= 0 or len(ids) > loaded.positions:
            return Made("", "too_long")
    tokens = torch.tensor([ids])  # (1, prompt)
    settings = _generation(loaded.model.generation_config, loaded.ends, writer.temperature, room)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(ask.seed)
        whole = loaded.model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
    answer = whole[0, 1 if loaded.both else len(ids) :].tolist()
    if not answer or answer[-1] not in loaded.ends:
        return Made("", "cut_off")
    text = loaded.tokenizer.decode(answer, skip_special_tokens=True).strip()
    return Made(text) if text else Made("", "empty")


def _tokens(tokenizer: Any, prompt: str) -> list[int]:
    if not tokenizer.chat_template:
        return list(tokenizer(prompt).input_ids)
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _generation(given: Any, ends: frozenset[int], temperature: float, room: int) -> Any:
    """The model's own settings (which tokens begin, end, must not come), but for how it is drawn and for how long."""
    settings = copy.deepcopy(given)
    settings.eos_token_id = sorted(ends)
    if settings.pad_token_id is None:
        settings.pad_token_id = settings.eos_token_id[0]
    settings.num_beams, settings.do_sample = 1, temperature > 0
    # None is Transformers' own default: for sampling it would mean the likeliest 50.
    drawn = (temperature, 0, 1.0) if temperature > 0 else (None, None, None)
    settings.temperature, settings.top_k, settings.top_p = drawn
    settings.max_length, settings.max_new_tokens = None, room
    return settings
