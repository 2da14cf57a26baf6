"""vLLM inside this process: the engine that serves, asked for likelihoods and greedy answers. The one place outside serving that imports it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from manta.evaluate.engines import Author, Engine, Judge, Sampling, Writer

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


class Reader(NamedTuple):
    """A loaded model that is asked what it reads of a request, and how likely it finds each token of a row.

    `conversation_ids(messages)` and `text_ids(text)`: the ids that the endpoint's chat and completions routes make of a
    request, or why they refuse it. `believe(rows)`: rows of token ids -> for each row the log-probabilities (nats) of its
    tokens but the first, and the likeliest token at each of these places.
    """

    conversation_ids: Callable[[Sequence[Mapping[str, str]]], list[int] | str]
    text_ids: Callable[[str], list[int] | str]
    believe: Callable[[Sequence[Sequence[int]]], list[tuple[list[float], list[int]]]]


def load(model: Path, dtype: str, max_tokens: int) -> Engine:
    """Load a Hugging Face directory for sequences of up to `max_tokens`, in the process's OMP_NUM_THREADS threads."""
    llm = _llm(model, dtype, max_tokens)
    return Engine(lambda rows: _logs(llm, rows), lambda prompts, limits: _generate(llm, prompts, limits))


def reader(model: Path, dtype: str, max_tokens: int) -> Reader:
    """As `load`, for what parity asks."""
    llm = _llm(model, dtype, max_tokens)
    routes = _Routes(llm)
    return Reader(routes.conversation_ids, routes.text_ids, lambda rows: _believe(llm, rows))


def judge(model: Path, dtype: str, max_tokens: int) -> Judge:
    """As `load`, for what is asked about single tokens."""
    llm = _llm(model, dtype, max_tokens)
    return Judge(lambda rows: _believe(llm, rows), lambda prompts, limits: _generate(llm, prompts, limits))


def writer(model: Path, dtype: str, max_tokens: int, at_once: int) -> Writer:
    """As `load`, for what is timed: `at_once` sequences are computed together."""
    llm = _llm(model, dtype, max_tokens, at_once)
    return lambda prompts, count: _write(llm, prompts, count)


def author(model: Path, dtype: str, max_tokens: int, how: Sampling) -> Author:
    """As `load`, for what a student is to learn."""
    llm = _llm(model, dtype, max_tokens)
    return lambda prompts, limits, seeds: _drawn(llm, prompts, limits, seeds, how)


class Drafting(NamedTuple):
    """A loaded model that writes with a draft model's help. `counted()` gives (drafted tokens, those that were kept) so far."""

    write: Writer
    counted: Callable[[], tuple[int, int]]


def drafting(model: Path, draft: Path, num_tokens: int, dtype: str, max_tokens: int) -> Drafting:
    """As `writer`, one sequence at a time, with `num_tokens` drafted at a time by the Hugging Face directory `draft`."""
    speculative = {"method": "draft_model", "model": str(draft), "num_speculative_tokens": num_tokens}
    # The draft's tokens have keys and values of their own: room for both models, and for tokens that are thrown away.
    room = cache_bytes(_config(draft), max_tokens + num_tokens + 1)
    llm = _llm(model, dtype, max_tokens + num_tokens, 1, room, speculative_config=speculative, disable_log_stats=False)
    return Drafting(lambda prompts, count: _write(llm, prompts, count), lambda: _drafted(llm))


def _drafted(llm: Any) -> tuple[int, int]:
    found = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    return (
        int(found["vllm:spec_decode_num_draft_tokens"]),
        int(found["vllm:spec_decode_num_accepted_tokens"]),
    )


def _config(model: Path) -> dict[str, Any]:
    return dict(json.loads((model / "config.json").read_text(encoding="utf-8")))


def _llm(model: Path, dtype: str, max_tokens: int, at_once: int = SEQUENCES, room: int = 0, **more: Any) -> Any:
    """`room` is key-value cache beyond what the model itself needs, in bytes."""
    os.environ.update(ENVIRONMENT)
    from vllm import LLM

    settings = {"disable_log_stats": True, **more}
    return LLM(
        model=str(model),
        dtype=dtype,
        # vLLM wants room for one more token even when only the prompt's likelihood is asked for. That token is never
        # fed back, so no position beyond the model's is computed.
        max_model_len=max_tokens + 1,
        max_num_seqs=at_once,
        kv_cache_memory_bytes=cache_bytes(_config(model), max_tokens + 1, at_once) + room,
        enforce_eager=True,
        enable_prefix_caching=False,
        seed=0,
        **settings,
    )


def cache_bytes(config: Mapping[str, Any], max_tokens: int, at_once: int = SEQUENCES) -> int:
    """Bytes of key-value cache that all sequences need at once: 2 (key, value) x layers x heads x width x 4 bytes a token."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    blocks = -(-max_tokens // BLOCK) + 1
    return int(2 * config["num_hidden_layers"] * heads * width * 4 * blocks * BLOCK * (at_once + 1))


def _logs(llm: Any, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    from vllm import SamplingParams

    wanted = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    answers = llm.generate([{"prompt_token_ids": list(row)} for row in rows], wanted, use_tqdm=False)
    found = []
    for row, answer in zip(rows, answers, strict=True):
        predicted = zip(row[1:], answer.prompt_logprobs[1:], strict=True)
        found.append([candidates[token].logprob for token, candidates in predicted])
    return found


def _generate(llm: Any, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    from vllm import SamplingParams

    wanted = [SamplingParams(max_tokens=limit, temperature=0.0, detokenize=False) for limit in limits]
    answers = llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], wanted, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]


def _write(llm: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    from vllm import SamplingParams

    wanted = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True, detokenize=False)
    answers = llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], wanted, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]


def _drawn(
    llm: Any, prompts: Sequence[Sequence[int]], limits: Sequence[int], seeds: Sequence[int], how: Sampling
) -> list[tuple[list[int], bool]]:
    from vllm import SamplingParams

    wanted = [
        SamplingParams(max_tokens=limit, temperature=how.temperature, top_p=how.top_p, seed=seed, detokenize=False)
        for limit, seed in zip(limits, seeds, strict=True)
    ]
    answers = llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], wanted, use_tqdm=False)
    return [(list(one.outputs[0].token_ids), one.outputs[0].finish_reason == "stop") for one in answers]


# --- what the endpoint reads -----------------------------------------------------------------------------------------


class _Routes:
    """What vLLM's OpenAI server turns requests into token ids with, around one model."""

    def __init__(self, llm: Any):
        from vllm.renderers.online_renderer import OnlineRenderer

        self.loop = asyncio.new_event_loop()
        self.renderer = OnlineRenderer(
            model_config=llm.model_config,
            renderer=llm.llm_engine.renderer,
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
        )

    def conversation_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int] | str:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        sent = {"model": "probe", "max_tokens": 1, "messages": [dict(message) for message in messages]}
        answer = self._ask(lambda: self.renderer.render_chat(ChatCompletionRequest(**sent)))
        return answer if isinstance(answer, str) else _ids_of(answer[1][0])

    def text_ids(self, text: str) -> list[int] | str:
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        sent = {"model": "probe", "max_tokens": 1, "prompt": text}
        answer = self._ask(lambda: self.renderer.render_completion(CompletionRequest(**sent)))
        return answer if isinstance(answer, str) else _ids_of(answer[0])

    def _ask(self, render: Callable[[], Any]) -> Any:
        """What a route answers, or as words why it refuses: what the server would answer with the status 400."""
        try:
            answer = self.loop.run_until_complete(render())
        except ValueError as error:  # what vLLM's own and pydantic's refusals are
            return str(error)
        return str(answer.error.message) if hasattr(answer, "error") else answer


def _ids_of(given: Mapping[str, Any]) -> list[int]:
    return [int(number) for number in given["prompt_token_ids"]]


def _believe(llm: Any, rows: Sequence[Sequence[int]]) -> list[tuple[list[float], list[int]]]:
    from vllm import SamplingParams

    wanted = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, detokenize=False)
    answers = llm.generate([{"prompt_token_ids": list(row)} for row in rows], wanted, use_tqdm=False)
    found = []
    for row, answer in zip(rows, answers, strict=True):
        predicted = list(zip(row[1:], answer.prompt_logprobs[1:], strict=True))
        logs = [candidates[token].logprob for token, candidates in predicted]
        best = [next(token for token, seen in candidates.items() if seen.rank == 1) for _, candidates in predicted]
        found.append((logs, best))
    return found
