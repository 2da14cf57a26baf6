"""Transformers inside this process: the reference that the serving engine is checked against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manta.evaluate.engines import Author, Engine, Judge, Sampling, Writer
from manta.tasks.encoding import seq2seq
from manta.tasks.scoring import generation


def load(model: Path, dtype: str, max_tokens: int) -> Engine:
    """Load a Hugging Face directory. `max_tokens` needs no preparation here."""
    del max_tokens
    loaded = _loaded(model, dtype)
    return Engine(lambda rows: _logs(loaded, rows), lambda prompts, limits: _generate(loaded, prompts, limits))


def judge(model: Path, dtype: str, max_tokens: int) -> Judge:
    """As `load`, for what is asked about single tokens."""
    del max_tokens
    loaded = _loaded(model, dtype)
    return Judge(lambda rows: _believe(loaded, rows), lambda prompts, limits: _generate(loaded, prompts, limits))


def writer(model: Path, dtype: str, max_tokens: int, at_once: int) -> Writer:
    """As `load`, for what is timed."""
    del max_tokens, at_once
    loaded = _loaded(model, dtype)
    return lambda prompts, count: _write(loaded, prompts, count)


def author(model: Path, dtype: str, max_tokens: int, how: Sampling) -> Author:
    """As `load`, for what a student is to learn: a decoder writes one answer at a time, an encoder-decoder its likeliest."""
    from manta.models.load import model_config

    del max_tokens
    if seq2seq.reads_apart(model_config(str(model))):
        return _translator(model, dtype, how.beams)
    loaded = _loaded(model, dtype)
    return lambda prompts, limits, seeds: [
        _drawn(loaded, *each, how) for each in zip(prompts, limits, seeds, strict=True)
    ]


def _loaded(model: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from manta.models.classes import know
    from manta.models.load import model_config

    know(model_config(str(model)))
    return AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), local_files_only=True).eval()


def _logs(model: Any, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    import torch

    found: list[list[float]] = []
    for row in rows:
        tokens = torch.tensor([list(row)])  # (1, seq)
        with torch.inference_mode():
            logits = model(input_ids=tokens).logits[0, :-1].float()  # (seq - 1, vocab)
        lost = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")  # (seq - 1,)
        found.append((-lost).tolist())
    return found


def _believe(model: Any, rows: Sequence[Sequence[int]]) -> list[tuple[list[float], list[int]]]:
    import torch

    found = []
    fed: list[int] = []
    for row in rows:
        if list(row[:-1]) != fed:  # choices of one token each follow the same question: it is computed once
            fed = list(row[:-1])
            with torch.inference_mode():
                logs = model(input_ids=torch.tensor([fed])).logits[0].float().log_softmax(-1)  # (seq - 1, vocab)
        targets = torch.tensor(list(row[1:]))[:, None]
        found.append((logs.gather(1, targets)[:, 0].tolist(), logs.argmax(-1).tolist()))
    return found


def _generate(model: Any, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    import torch

    given = model.generation_config
    answers = []
    # One by one: padding would change what a prompt's tokens see, if ever so little.
    for prompt, limit in zip(prompts, limits, strict=True):
        greedy = generation.plain(given, given.pad_token_id, limit)
        tokens = torch.tensor([list(prompt)])  # (1, seq)
        with torch.inference_mode():
            whole = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=greedy)
        answers.append(whole[0, tokens.shape[1] :].tolist())
    return answers


def _write(model: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    import torch

    given = model.generation_config
    greedy = generation.plain(given, given.pad_token_id, count)
    greedy.min_new_tokens = count
    tokens = torch.tensor([list(prompt) for prompt in prompts])  # (prompts, seq)
    with torch.inference_mode():
        whole = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=greedy)
    return [list(row) for row in whole[:, tokens.shape[1] :].tolist()]


def _drawn(model: Any, prompt: Sequence[int], limit: int, seed: int, how: Sampling) -> tuple[list[int], bool]:
    import torch

    settings = generation.plain(model.generation_config, model.generation_config.pad_token_id, limit)
    if how.temperature > 0.0:
        settings.update(do_sample=True, temperature=how.temperature, top_p=how.top_p, top_k=0)
    tokens = torch.tensor([list(prompt)])  # (1, seq)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
    answer = whole[0, len(prompt) :].tolist()
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    return answer, bool(answer) and answer[-1] in ends


def _translator(model: Path, dtype: str, beams: int) -> Author:
    """An encoder-decoder. Its answers come without the token that ends them, so those that fill their limit had none."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    loaded = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=getattr(torch, dtype), local_files_only=True).eval()
    pad = loaded.config.pad_token_id

    def write(
        prompts: Sequence[Sequence[int]], limits: Sequence[int], seeds: Sequence[int]
    ) -> list[tuple[list[int], bool]]:
        del seeds  # of the likeliest answers none is drawn
        limit = max(limits)
        answers = generation.answers(loaded, prompts, pad, limit, beams)
        return [(answer, len(answer) < limit) for answer in answers]

    return write
