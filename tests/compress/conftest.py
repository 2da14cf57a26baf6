"""A small model that has learnt something, and the shards it learnt from: so that losing precision shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

SEQ = 64
VOCAB = 512


class Trained(NamedTuple):
    """`shards` looks like a prepared artifact, `model` is a Hugging Face directory in bfloat16."""

    shards: Path
    model: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Trained:
    import numpy as np
    import torch

    from manta.data import tokenizer
    from manta.models import build, presets
    from manta.sections.model import NewModel

    torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other
    folder = tmp_path_factory.mktemp("trained")
    texts = [json.loads(line)["text"] for name in ("a", "b") for line in (tiny_corpus / f"{name}.jsonl").open()]
    model_folder, shards = folder / "model", folder / "shards"
    model_folder.mkdir()
    (shards / "tokenizer").mkdir(parents=True)
    for place in (model_folder, shards / "tokenizer"):
        tokenizer.train(iter(texts), VOCAB, place)
    place = tokenizer.find(str(model_folder))
    facts = tokenizer.facts(place)
    encode = tokenizer.encoders(place.read_text("tokenizer.json"))["tokenizers"]
    ids = np.array([token for text in texts for token in [*encode(text), facts.eos_id]], dtype=np.int32)
    rows = ids[: len(ids) // SEQ * SEQ].reshape(-1, SEQ)
    _write_shards(shards, rows, facts)

    special = {"bos_token_id": facts.bos_id, "eos_token_id": facts.eos_id, "pad_token_id": facts.pad_id}
    sizes = NewModel(
        preset="llama-tiny", hidden_size=128, intermediate_size=384, num_heads=4, num_kv_heads=2, num_layers=3
    )
    config = presets.config(sizes, facts.vocab_size, special)
    config["max_position_embeddings"] = 2 * SEQ
    model = build.build(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order = np.random.default_rng(0).integers(len(rows) - 32, size=(150, 16))
    for chosen in order:
        batch = torch.from_numpy(rows[32:][chosen]).long()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 5.0, "the model learnt nothing"  # chance is ln(512) = 6.24
    model.to(torch.bfloat16).save_pretrained(model_folder)
    return Trained(shards, model_folder)


def _write_shards(shards: Path, rows, facts) -> None:
    """The first 32 rows validate, the rest train."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from manta.data.shards import Index, save_index, write_shard
    from manta.storage import Folder

    folder = Folder(shards)
    splits = {
        "train": (write_shard(folder, "train/0.parquet", {"input_ids": rows[32:]}),),
        "validation": (write_shard(folder, "validation/0.parquet", {"input_ids": rows[:32]}),),
    }
    save_index(folder, Index(SEQ, facts.vocab_size, facts.eos_id, facts.bos_id, facts.pad_id, splits))
    examples = pa.table({"input": [f"Return {n} times the value." for n in range(6)], "target": ["the value"] * 6})
    (shards / "examples").mkdir()
    pq.write_table(examples, shards / "examples" / "validation.parquet")
    manifest = {"kind": "prepare", "name": "shards", "fingerprint": "0" * 64, "content": "1" * 64, "inputs": {}}
    (shards / "manifest.json").write_text(json.dumps(manifest))
    (shards / "COMPLETE").write_text("")
