"""The Hugging Face Trainer with DeepSpeed as its users call it: SHARDS PRESET STEPS ROWS THREADS. fp32, its AdamW."""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from bare_loop import WARM_STEPS, fresh_model, peak_mib, training_rows


class Rows(torch.utils.data.Dataset):
    """Rows in memory, as the Trainer wants them."""

    def __init__(self, rows: torch.Tensor):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Clock(transformers.TrainerCallback):
    """The seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self._last:
            self.seconds.append(time.perf_counter() - self._last)  # from begin to begin, so fetching data is in it
        self._last = time.perf_counter()


# What its documentation gives for a run without ZeRO: the rest is taken from the arguments.
DEEPSPEED = {
    "zero_optimization": {"stage": 0},
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}


def one_rank() -> None:
    """What `torchrun` would set for a single process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def main() -> None:
    one_rank()
    folder, preset = Path(sys.argv[1]), sys.argv[2]
    steps, rows, threads = map(int, sys.argv[3:])
    torch.set_num_threads(threads)
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch, max_steps=steps, per_device_train_batch_size=rows, learning_rate=1.0e-3, weight_decay=0.1,
            adam_beta2=0.95, lr_scheduler_type="constant", use_cpu=True, logging_steps=steps, save_strategy="no",
            report_to="none", disable_tqdm=True, seed=0, deepspeed=DEEPSPEED,
        )  # fmt: skip
        data = Rows(training_rows(folder, steps * rows))
        trainer = transformers.Trainer(fresh_model(folder, preset), arguments, train_dataset=data, callbacks=[clock])
        trainer.train()
    row_tokens = data.rows.shape[1]
    speed = rows * row_tokens / statistics.median(clock.seconds[WARM_STEPS:])
    print(json.dumps({"tokens_per_s": speed, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
