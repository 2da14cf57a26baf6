"""Real learning curves for the benchmark of searches: each configuration of a grid is trained once, and kept.

A decoder of SmolLM2's shape (grouped queries, tied embeddings, SwiGLU) but small writes a docstring's first line from its
body. It is trained from random weights by a bare PyTorch loop: AdamW, clipped gradients, warm-up and linear decay.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import task_examples

from manta.data import tokenizer as tokenizers

VOCAB, TOKENS, ROWS, HELD_OUT, SEED, NOISE_SEEDS = 1024, 96, 8, 64, 0, 5
IGNORED = -100  # a label that no loss is taken of
Overrides = dict[str, Any]


class Grid(NamedTuple):
    """What is trained: a choice of values for each field, how long, and at which steps the loss is taken."""

    space: dict[str, list[Any]]
    steps: int
    marks: tuple[int, ...]  # the last is the end

    @property
    def configurations(self) -> list[Overrides]:
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())]


_RATES = [1e-4, 2e-4, 4e-4, 7e-4, 1e-3, 2e-3, 4e-3, 7e-3, 1e-2, 2e-2, 4e-2, 1e-1]
QUICK = Grid(
    {
        "optimizer.lr": _RATES,
        "optimizer.betas": [[0.9, 0.9], [0.9, 0.999]],
        "schedule.warmup_fraction": [0.0, 0.1, 0.4],
    },
    81,
    (3, 9, 27, 81),
)
FULL = Grid(
    {
        "optimizer.lr": _RATES,
        "optimizer.betas": [[0.9, 0.9], [0.9, 0.95], [0.9, 0.999]],
        "schedule.warmup_fraction": [0.0, 0.1, 0.4],
        "optimizer.weight_decay": [0.0, 0.3],
    },
    81,
    (3, 9, 27, 81),
)


def key(overrides: Overrides) -> str:
    return json.dumps(overrides, sort_keys=True)


def curves(grid: Grid, say: Callable[[str], None]) -> dict[str, dict[int, float]]:
    """`key` of a configuration -> step -> validation loss. What an earlier call has trained is read, not trained again."""
    file = _folder() / f"curves-{len(grid.configurations)}-{grid.steps}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = {line["key"]: {int(step): loss for step, loss in line["curve"].items()} for line in lines}
    missing = [one for one in grid.configurations if key(one) not in found]
    if missing:
        say(f"tune: {len(missing)} of {len(grid.configurations)} configurations are trained, {grid.steps} steps each")
        rows = _Rows(file.parent / "words")
        with file.open("a") as handle:
            for one in missing:
                found[key(one)] = dict(_trained(one, grid, rows))
                handle.write(json.dumps({"key": key(one), "curve": found[key(one)]}) + "\n")
                handle.flush()
    return found


def noise(grid: Grid, found: dict[str, dict[int, float]]) -> float:
    """How much the loss at the end moves with the seed alone: standard deviation, nats, of the best configuration's.

    Two losses that differ by less say nothing about which configuration is better.
    """
    file = _folder() / f"noise-{len(grid.configurations)}-{grid.steps}.json"
    if not file.exists():
        best = min(grid.configurations, key=lambda one: found[key(one)][grid.steps])
        rows = _Rows(_folder() / "words")
        ends = [dict(_trained(best, grid, rows, seed))[grid.steps] for seed in range(NOISE_SEEDS)]
        file.write_text(json.dumps(float(np.std(ends, ddof=1))))
    return float(json.loads(file.read_text()))


def _folder() -> Path:
    folder = harness.SCRATCH / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Rows:
    """Token rows of the task, int64 (rows, TOKENS), and their labels; the batches of a step follow from the step alone."""

    def __init__(self, folder: Path):
        train, test = task_examples.split("summarisation", 1200, HELD_OUT)
        self.words = words(folder)
        self.train, self.held_out = self._encoded(train), self._encoded(test)

    def _encoded(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = [], []
        for example in _examples(file):
            answer = [*self.words(example["target"], add_special_tokens=False)["input_ids"][: TOKENS // 3], 0]
            asked = self.words(example["input"], add_special_tokens=False)["input_ids"][: TOKENS - len(answer)]
            empty = TOKENS - len(asked) - len(answer)
            rows.append(asked + answer + [0] * empty)
            labels.append([IGNORED] * len(asked) + answer + [IGNORED] * empty)
        return np.array(rows), np.array(labels)

    def batch(self, step: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.random.default_rng([seed, step]).choice(len(self.train[0]), ROWS, replace=False)
        return self.train[0][chosen], self.train[1][chosen]


def words(folder: Path) -> Any:
    """The tokenizer of the task's texts; trained once, and kept in `folder`."""
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train, _ = task_examples.split("summarisation", 1200, HELD_OUT)
        texts = (text for example in _examples(train) for text in (example["input"], example["target"]))
        tokenizers.train(texts, VOCAB, folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _examples(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def model(seed: int = SEED) -> Any:
    """A Llama of SmolLM2's shape with 0.3M weights, which follow from the seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": 72, "intermediate_size": 192, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    made = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=TOKENS, tie_word_embeddings=True, **shape, **heads)
    return LlamaForCausalLM(made)


def _trained(overrides: Overrides, grid: Grid, rows: _Rows, seed: int = SEED) -> Iterator[tuple[int, float]]:
    """(step, validation loss) at the grid's marks; a loss that is no number counts as ln(VOCAB), that of a guess."""
    import torch

    torch.set_num_threads(1)
    trained = model(seed)
    lr, betas = overrides["optimizer.lr"], tuple(overrides["optimizer.betas"])
    decay = overrides.get("optimizer.weight_decay", 0.0)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=lr, betas=betas, weight_decay=decay)
    for step in range(grid.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * _share(step, grid.steps, overrides["schedule.warmup_fraction"])
        tokens, labels = (torch.from_numpy(part) for part in rows.batch(step, seed))
        trained(input_ids=tokens, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 in grid.marks:
            with torch.no_grad():
                tokens, labels = (torch.from_numpy(part) for part in rows.held_out)
                loss = float(trained(input_ids=tokens, labels=labels).loss)
            yield step + 1, loss if math.isfinite(loss) else math.log(VOCAB)


def _share(step: int, steps: int, warmup: float) -> float:
    """Of the learning rate at a step: up to 1 over the warm-up, then down towards 0."""
    rising = round(warmup * steps)
    return (step + 1) / (rising + 1) if step < rising else (steps - step) / (steps - rising)
