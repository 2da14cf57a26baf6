"""Latency: the arithmetic by a clock of our own, and real models of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manta.errors import InputError
from manta.evaluate import latency
from manta.sections.search import Latency


class Clock:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(20, 0, -1)]
    assert latency.percentile(values, 50) == 10
    assert latency.percentile(values, 95) == 19
    assert latency.percentile(values, 100) == 20
    assert latency.percentile([7.0], 50) == 7


def test_passes_are_timed_after_those_that_warm_up() -> None:
    clock = Clock()

    def passed(row: list[int]) -> None:
        clock.now += row[0] / 1000

    rows = [[900], [900], [900], *([milliseconds] for milliseconds in range(1, 21))]
    assert latency.of_passes(passed, rows, clock) == pytest.approx({"p50_ms": 10, "p95_ms": 19})


def test_answers_are_timed_by_token() -> None:
    """The first token takes 40 ms, each further one 5 ms; the second request ends after its first token."""
    clock = Clock()

    def answer(row: list[int], most: int) -> list[int]:
        count = min(most, row[0])
        clock.now += 0.040 + 0.005 * (count - 1)
        return [1] * count

    warm = [[1]] * latency.WARM_UP
    found = latency.of_answers(answer, [*warm, [9], [1], [5]], 8, clock)
    assert found == pytest.approx({"p50_ms": 60, "p95_ms": 75, "first_token_ms": 40, "ms_per_token": 5})
    alone = latency.of_answers(answer, [*warm, [1], [1]], 8, clock)
    assert "ms_per_token" not in alone, "there was no token to time"


def test_requests_are_the_same_for_the_same_seed() -> None:
    settings = Latency(requests=4, tokens=6)
    rows = latency.requests(settings, 3, 300)
    assert len(rows) == latency.WARM_UP + 4
    assert {len(row) for row in rows} == {6}
    assert all(0 <= token < 300 for row in rows for token in row)
    assert rows == latency.requests(settings, 3, 300)
    assert rows != latency.requests(settings, 4, 300)


def saved(folder: Path, kind: str) -> Path:
    import torch
    import transformers as hf

    torch.manual_seed(0)
    small: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "max_position_embeddings": 24, "pad_token_id": 0}
    made: Any
    if kind == "classifier":
        made = hf.BertForSequenceClassification(hf.BertConfig(**small, num_labels=3))
    elif kind == "decoder":
        made = hf.LlamaForCausalLM(hf.LlamaConfig(**small, bos_token_id=1, eos_token_id=2))
    else:
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        made = hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=64, **sizes))
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["classifier", "decoder", "seq2seq"])
def test_models_of_each_kind_are_measured(tmp_path: Path, kind: str) -> None:
    settings = Latency(requests=3, tokens=8, new_tokens=4, engine="transformers", dtype="float32")
    found = latency.measure(str(saved(tmp_path, kind)), settings, 0)
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    if kind == "classifier":
        assert set(found) == {"p50_ms", "p95_ms"}
    else:
        assert found["first_token_ms"] > 0
        assert {"p50_ms", "p95_ms", "first_token_ms"} <= set(found)


@pytest.mark.parametrize(("kind", "tokens"), [("classifier", 25), ("decoder", 21)])
def test_requests_that_are_too_long_are_refused(tmp_path: Path, kind: str, tokens: int) -> None:
    settings = Latency(requests=1, tokens=tokens, new_tokens=4, engine="transformers", dtype="float32")
    with pytest.raises(InputError, match=r"25 tokens .* 24 positions: lower after\.latency\.tokens"):
        latency.measure(str(saved(tmp_path, kind)), settings, 0)
