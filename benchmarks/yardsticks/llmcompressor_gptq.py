"""llm-compressor's GPTQ, int4 in groups: SOURCE FOLDER GROUP. Reads FOLDER/rows.npy, writes FOLDER/llmcompressor."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import used
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    source, folder, group = sys.argv[1:]
    torch.set_num_threads(1)
    rows = torch.from_numpy(np.load(Path(folder) / "rows.npy")).long()
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": int(group)}
    modifier = GPTQModifier(config_groups={"linear": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"])
    batches = [{"input_ids": part} for part in rows.split(4)]
    with used.counted() as figures:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True)
        oneshot(
            model=model,
            processor=AutoTokenizer.from_pretrained(source, local_files_only=True),
            recipe=[modifier],
            dataset=torch.utils.data.DataLoader(batches, batch_size=None),
            pipeline="sequential",
        )
        model.to(torch.bfloat16).save_pretrained(Path(folder) / "llmcompressor", save_compressed=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
