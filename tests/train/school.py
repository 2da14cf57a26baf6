"""Rows that count, tiny Llamas that read them, and recipes by which one teaches the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manta import artifact
from manta import recipe as recipes
from manta.artifact import Draft
from manta.data import tokenizer
from manta.data.shards import Index, save_index, write_shard
from manta.progress import Progress
from manta.schema import PretrainRecipe
from manta.storage import Folder
from manta.train import run
from manta.train.job import Job

VOCAB, SEQ, MANY, TRAIN, HELD_OUT = 300, 32, 1600, 400, 64


def shards(output: Path, train: int = TRAIN, name: str = "shards") -> Path:
    """Prepared rows, each of which counts upwards by a number of its own, a fifth of the tokens at random.

    Those that are held out are the same, however many (up to MANY) are there to train on.
    """
    folder, draw = Folder(output / name), np.random.default_rng(0)
    shape = (MANY + HELD_OUT, 1)
    rows = (draw.integers(0, 200, shape) + draw.integers(1, 4, shape) * np.arange(SEQ)) % 200 + 50
    rows = np.where(draw.random(rows.shape) < 0.2, draw.integers(50, 250, rows.shape), rows).astype(np.int32)
    splits = {
        "train": tuple(
            write_shard(folder, f"train/{number}.parquet", {"input_ids": part})
            for number, part in enumerate(np.array_split(rows[:train], 3))
        ),
        "validation": (write_shard(folder, "validation/0.parquet", {"input_ids": rows[MANY:]}),),
    }
    save_index(folder, Index(SEQ, VOCAB, 0, 0, 2, splits))
    (output / name / "tokenizer").mkdir()
    tokenizer.train(iter(["a"]), VOCAB, output / name / "tokenizer")
    prints = {"fingerprint": "e" * 64, "content": "d" * 64}
    made = {"kind": "prepare", "name": name, "inputs": {}, "metrics": {}, **prints}
    folder.write_text(artifact.MANIFEST, json.dumps(made))
    folder.write_text(artifact.COMPLETE, "")
    return output / name


def llama(folder: Path, rows: Path, layers: int = 2, seed: int = 0, steps: int = 0, **sizes: int) -> Path:
    """A Hugging Face directory of a tiny Llama with the rows' tokenizer, trained on them for so many steps."""
    from transformers import LlamaConfig, LlamaForCausalLM

    known = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": VOCAB} | sizes
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=layers, num_key_value_heads=1, max_position_embeddings=64, **known)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        loss = model(**(batch := read(rows, step)), labels=batch["input_ids"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    for file in (rows / "tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


def read(rows: Path, step: int) -> dict[str, torch.Tensor]:
    """Sixteen training rows, others each step."""
    from manta.data.shards import load_index
    from manta.data.stream import take

    index = load_index(str(rows))
    some = (np.arange(16) + 16 * step) % index.rows("train")
    found = take(str(rows), index, "train", some, ("input_ids",))
    return {"input_ids": torch.from_numpy(found["input_ids"]).long()}


def cut(folder: Path, teacher: Path, keep: list[int]) -> Path:
    """The model with these blocks alone."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(teacher)
    model.model.layers = torch.nn.ModuleList(model.model.layers[number] for number in keep)
    model.config.num_hidden_layers = len(keep)
    model.save_pretrained(folder)
    for file in teacher.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def recipe(rows: Path, student: Path, teacher: Path | None, output: Path, **given: Any) -> PretrainRecipe:
    """Sixteen rows a step; without a teacher by the text alone."""
    objective = given.pop("objective", {})
    taught = {"name": "distillation", "teacher": str(teacher)} if teacher else {"name": "clm"}
    raw = {
        "kind": "pretrain", "name": "healed", "output": str(output), "data": {"shards": str(rows)},
        "model": {"source": str(student)}, "objective": taught | objective,
        "optimizer": {"lr": 3e-3, "precision": "fp32", "weight_decay": 0.0}, "batch": {"samples": 16},
        "stop": {"steps": 60}, "checkpoint": {"every_steps": 20, "keep": 1}, "evaluate": {"every_steps": 30},
        "resources": {"micro_batch": 8, "zero_stage": 0}, **given,
    }  # fmt: skip
    made = recipes.validate(raw)
    assert isinstance(made, PretrainRecipe)
    return made


def job(wanted: PretrainRecipe) -> Job:
    """What the workers of a run would be told, checked as the run is."""
    inputs = artifact.resolve_inputs(wanted)
    run.check(wanted, inputs)
    draft = Draft(Folder(f"{wanted.output}/{wanted.name}"), {}, inputs, resumed=False)
    found: Job = run.make_job(wanted, draft, None, Progress(quiet=True))
    return found
