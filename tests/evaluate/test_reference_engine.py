"""The engine that others are held against answers greedily, whatever the model's directory says of sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from manta.evaluate import hf_engine
from tests.tasks import labelled

PROMPT, LIMIT = [5, 9, 7], 6


def by_hand(model: Any, end: int | None) -> list[int]:
    """The likeliest token again and again."""
    tokens = list(PROMPT)
    while len(tokens) < len(PROMPT) + LIMIT:
        with torch.inference_mode():
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == end:
            break
    return tokens[len(PROMPT) :]


def test_answers_are_the_likeliest_tokens_whatever_the_directory_wants(tmp_path: Path) -> None:
    folder = labelled.llama(tmp_path / "llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    wanted = by_hand(model, model.generation_config.eos_token_id)
    settings = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1}
    model.generation_config.update(**settings, min_new_tokens=LIMIT, num_beams=3, length_penalty=5.0)
    model.generation_config.save_pretrained(folder)
    assert hf_engine.load(folder, "float32", 16).generate([PROMPT], [LIMIT]) == [wanted]
    assert len(set(wanted)) < len(wanted), "a penalty for repetition would have changed them"
