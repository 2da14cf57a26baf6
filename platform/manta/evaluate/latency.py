"""How long a model takes to answer: one request at a time, of random tokens, by the engine that would serve it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from manta.errors import InputError
from manta.evaluate import engines
from manta.sections.search import Latency
from manta.storage import Folder

WARM_UP = 3  # requests that are not counted: memory is taken, kernels are made
Row = list[int]
Clock = Callable[[], float]


def measure(url: str, settings: Latency, seed: int) -> dict[str, float]:
    """Figures of the Hugging Face directory at `url`: p50_ms and p95_ms of a whole request; of models that generate also
    first_token_ms (the median time to the first token) and ms_per_token (of the tokens after it).

    Raises InputError where the model has too few positions for `settings`.
    """
    from manta.models.classes import named
    from manta.models.load import model_config

    with Folder(url).local() as model:
        config = model_config(str(model))
        rows = requests(settings, seed, int(config["vocab_size"]))
        limit = settings.new_tokens
        name = named(config).__name__
        if name.endswith("ForConditionalGeneration"):
            _check_positions(config, settings.tokens)
            return of_answers(_seq2seq(model, settings), rows, limit)
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            _check_positions(config, settings.tokens + limit)
            loaded = engines.load(settings.engine, model, settings.dtype, settings.tokens + limit)
            return of_answers(lambda row, most: loaded.generate([row], [most])[0], rows, limit)
        _check_positions(config, settings.tokens)
        passed = head(model, settings.dtype, settings.cpus)
        return of_passes(lambda row: passed([row]), rows)


def requests(settings: Latency, seed: int, vocab_size: int) -> list[Row]:
    """Rows of random token ids, those for warming up first."""
    return random_rows(WARM_UP + settings.requests, settings.tokens, seed, vocab_size)


def random_rows(count: int, tokens: int, seed: int, vocab_size: int) -> list[Row]:
    """Rows of random token ids, the same for the same seed."""
    import numpy as np

    return [list(map(int, row)) for row in np.random.default_rng(seed).integers(vocab_size, size=(count, tokens))]


def of_passes(passed: Callable[[Row], Any], rows: Sequence[Row], clock: Clock = time.perf_counter) -> dict[str, float]:
    """Of a model that answers in one pass: `passed(row)` is one request."""
    times = []
    for row in rows:
        began = clock()
        passed(row)
        times.append(1000 * (clock() - began))
    return _whole(times[WARM_UP:])


def of_answers(
    answer: Callable[[Row, int], Row], rows: Sequence[Row], limit: int, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Of a model that generates: `answer(row, most)` gives at most so many new tokens. Each row is asked for one token and
    then for `limit`; what the second takes longer is the time of its further tokens. Where no answer is longer than a
    token there is no ms_per_token."""
    firsts, wholes, extra, further = [], [], 0.0, 0
    for number, row in enumerate(rows):
        began = clock()
        answer(row, 1)
        middle = clock()
        count = len(answer(row, limit))
        ended = clock()
        if number < WARM_UP:
            continue
        firsts.append(1000 * (middle - began))
        wholes.append(1000 * (ended - middle))
        if count > 1:
            extra, further = extra + wholes[-1] - firsts[-1], further + count - 1
    found = {**_whole(wholes), "first_token_ms": statistics.median(firsts)}
    return found | ({"ms_per_token": extra / further} if further else {})


def _whole(times: Sequence[float]) -> dict[str, float]:
    return {"p50_ms": percentile(times, 50), "p95_ms": percentile(times, 95)}


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of the values that `percent` of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def _check_positions(config: dict[str, Any], needed: int) -> None:
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if positions is not None and needed > positions:
        raise InputError(
            f"after.latency: a request of {needed} tokens with its answer exceeds the model's {positions} positions: lower "
            "after.latency.tokens or after.latency.new_tokens"
        )


def _seq2seq(model: Path, settings: Latency) -> Callable[[Row, int], Row]:
    import torch

    from manta.tasks.scoring import generation

    loaded = _loaded(model, settings.dtype, settings.cpus)
    pad = loaded.generation_config.pad_token_id

    def answer(row: Row, most: int) -> Row:
        ids = torch.tensor([row])  # (1, tokens)
        greedy = generation.plain(loaded.generation_config, pad, most)
        with torch.inference_mode():
            whole = loaded.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
        return list(whole[0, 1:].tolist())  # the first one is what the decoder starts from

    return answer


def head(model: Path, dtype: str, cpus: int) -> Callable[[Sequence[Row]], Any]:
    """A model that answers in one pass: what rows of one length are put through, in so many threads."""
    import torch

    loaded = _loaded(model, dtype, cpus)

    def passed(rows: Sequence[Row]) -> Any:
        ids = torch.tensor(list(rows))  # (rows, tokens)
        with torch.inference_mode():
            return loaded(input_ids=ids, attention_mask=torch.ones_like(ids))

    return passed


def _loaded(model: Path, dtype: str, cpus: int) -> Any:
    import torch

    from manta.models.load import opened

    torch.set_num_threads(cpus)
    return opened(model, dtype)
