"""A plain PyTorch training loop: SHARDS PRESET STEPS ROWS THREADS [compile]. fp32, fused AdamW."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from manta.data import shards
from manta.models import build, presets
from manta.schema import NewModel
from manta.storage import Folder

WARM_STEPS = 5


def fresh_model(folder: Path, preset: str) -> Any:
    """The model that Manta builds of the same recipe, with the same first weights (seed 0)."""
    index = shards.load_index(str(folder))
    special = {"bos_token_id": index.bos_id, "eos_token_id": index.eos_id, "pad_token_id": index.pad_id}
    return build.build(presets.config(NewModel.model_validate({"preset": preset}), index.vocab_size, special), seed=0)


def training_rows(folder: Path, wanted: int) -> torch.Tensor:
    """The first training rows, int64 (wanted, seq_len), all in memory."""
    index = shards.load_index(str(folder))
    found = [torch.from_numpy(shards.read_rows(Folder(folder), shard.path).copy()) for shard in index.splits["train"]]
    return torch.cat(found)[:wanted].long()


def fused_adamw(model: Any) -> torch.optim.Optimizer:
    """As Manta groups the weights: matrices decay, norms do not."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": 0.1},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1.0e-3, betas=(0.9, 0.95), fused=True)


def train(model: Any, data: torch.Tensor, rows: int, steps: int) -> tuple[list[float], float]:
    """Seconds of each step and the last loss; `data` is int64 (steps * rows, seq)."""
    model.train()
    optimizer, weights = fused_adamw(model), list(model.parameters())
    seconds, loss = [], torch.tensor(0.0)
    for step in range(steps):
        began = time.perf_counter()
        batch = data[step * rows : (step + 1) * rows]  # (rows, seq)
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]  # (rows, seq - 1, vocab)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return seconds, float(loss)


def peak_mib() -> float:
    """The most that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    folder, preset = Path(sys.argv[1]), sys.argv[2]
    steps, rows, threads = map(int, sys.argv[3:6])
    torch.set_num_threads(threads)
    model = fresh_model(folder, preset)
    if "compile" in sys.argv[6:]:
        model.compile()
    data = training_rows(folder, steps * rows)
    seconds, loss = train(model, data, rows, steps)
    speed = rows * data.shape[1] / statistics.median(seconds[WARM_STEPS:])
    print(json.dumps({"tokens_per_s": speed, "loss": loss, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
