"""vLLM inside this process: the engine that serves, asked for likelihoods and greedy answers. The one place outside serving that imports it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manta.evaluate.engines import Engine

# Read when vLLM is imported. One process: ready in seconds, and nothing outlives it.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" pins every engine of a small machine to its first core
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # see `load`
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
SEQUENCES = 16  # computed at a time
BLOCK = 128  # tokens of one block of the key-value cache on CPUs


def load(model: Path, dtype: str, max_tokens: int) -> Engine:
    """Load a Hugging Face directory for sequences of up to `max_tokens`, in the process's OMP_NUM_THREADS threads."""
    os.environ.update(ENVIRONMENT)
    from vllm import LLM

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    llm = LLM(
        model=str(model),
        dtype=dtype,
        # vLLM wants room for one more token even when only the prompt's likelihood is asked for. That token is never
        # fed back, so no position beyond the model's is computed.
        max_model_len=max_tokens + 1,
        max_num_seqs=SEQUENCES,
        kv_cache_memory_bytes=cache_bytes(config, max_tokens + 1),
        enforce_eager=True,
        enable_prefix_caching=False,
        disable_log_stats=True,
        seed=0,
    )
    return Engine(lambda rows: _nll(llm, rows), lambda prompts, limits: _generate(llm, prompts, limits))


def cache_bytes(config: Mapping[str, Any], max_tokens: int) -> int:
    """Bytes of key-value cache that all sequences need at once: 2 (key, value) x layers x heads x width x 4 bytes a token."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    blocks = -(-max_tokens // BLOCK) + 1
    return int(2 * config["num_hidden_layers"] * heads * width * 4 * blocks * BLOCK * (SEQUENCES + 1))


def _nll(llm: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    from vllm import SamplingParams

    wanted = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    answers = llm.generate([{"prompt_token_ids": list(row)} for row in rows], wanted, use_tqdm=False)
    sums = []
    for row, answer in zip(rows, answers, strict=True):
        predicted = zip(row[1:], answer.prompt_logprobs[1:], strict=True)
        sums.append(-sum(candidates[token].logprob for token, candidates in predicted))
    return sums


def _generate(llm: Any, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    from vllm import SamplingParams

    wanted = [SamplingParams(max_tokens=limit, temperature=0.0, detokenize=False) for limit in limits]
    answers = llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], wanted, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]
