"""Quantises in a process of its own: SOURCE FOLDER NAME SETTINGS (JSON). Reads FOLDER/rows.npy, writes FOLDER/NAME."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import used
from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401 - imported now, so that it is not counted

from manta.compress import quantise
from manta.sections.quantise import Quantise


def main() -> None:
    source, folder, name, settings = sys.argv[1:]
    torch.set_num_threads(1)
    target = Path(folder) / name
    target.mkdir(exist_ok=True)
    rows = np.load(Path(folder) / "rows.npy")
    with used.counted() as figures:
        quantise.apply(Path(source), target, Quantise.model_validate(json.loads(settings)), rows, lambda *_: None)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
