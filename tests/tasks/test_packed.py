"""Conversations that share a row do not see each other: every model, loss and row says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta.data.shards import LENGTH, load_index, read_rows
from manta.errors import InputError
from manta.objectives.clm import clm, clm_scored
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.tasks.encoding import packing, rows
from manta.tasks.encoding.conversation import IGNORED, Encoded
from tests.tasks.test_rows import of, recipe

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 100, "max_position_embeddings": 64,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100},
    "lstm": {"hidden_size": 32, "vocab_size": 100},
    "phi3": {**SIZES, "pad_token_id": 0},
    "smollm3": {**SIZES, "pad_token_id": 0},
}


def model_of(kind: str) -> Any:
    import transformers

    from manta.models import lstm

    lstm.register()
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **OWN.get(kind, SIZES))
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return transformers.AutoModelForCausalLM.from_config(config).float().eval()


def conversation(size: int, seed: int) -> Encoded:
    ids = np.random.default_rng(seed).integers(3, 100, size).tolist()
    question = size // 2
    return Encoded(ids, [IGNORED] * question + ids[question:], False)


def batch_of(some: list[Any], width: int) -> dict[str, torch.Tensor]:
    columns = rows.stacked(some, width, {"input_ids": 0, **packing.PADDED})
    return {name: torch.from_numpy(values) for name, values in columns.items()}


@pytest.mark.parametrize("kind", packing.APART)
def test_the_loss_of_a_shared_row_is_that_of_its_conversations(kind: str) -> None:
    """In one row of 40 places: 14, 9 and 11 tokens and filling. Sums of losses, and counts of what is scored."""
    model, some = model_of(kind), [conversation(size, size) for size in (14, 9, 11)]
    (packed,) = packing.pack(some, 40)
    together = batch_of([packed], 40)
    with torch.no_grad():
        loss, count = clm(model, together)
        singles = [clm(model, batch_of([each], len(each.input_ids))) for each in some]
        alone = sum(float(each) for each, _ in singles)
        assert float(loss) == pytest.approx(alone, abs=1e-5 * float(count))
        assert abs(float(loss) - alone) / float(count) < 1e-5
        assert int(count) == sum(int(each) for _, each in singles) == 7 + 5 + 6
        blind = {name: values for name, values in together.items() if name != "position_ids"}
        assert abs(float(clm(model, blind)[0]) - alone) > 1e-3, "without positions they see each other"
    assert clm_scored({name: values.numpy() for name, values in together.items()}) == int(count)


@pytest.mark.parametrize("kind", packing.APART)
def test_another_conversation_beside_it_changes_nothing(kind: str) -> None:
    model = model_of(kind)
    first, second, third = (conversation(10, seed) for seed in (1, 2, 3))

    def logits(middle: Encoded) -> torch.Tensor:
        batch = batch_of([packing._joined([first, middle, third])], 32)
        with torch.no_grad():
            found: torch.Tensor = model(
                input_ids=batch["input_ids"].long(), position_ids=batch["position_ids"].long(), use_cache=False
            ).logits[0]
        return found

    one, other = logits(second), logits(conversation(10, 9))
    assert torch.allclose(one[:10], other[:10], atol=1e-6) and torch.allclose(one[20:30], other[20:30], atol=1e-6)
    assert not torch.allclose(one[10:20], other[10:20], atol=1e-4)


def test_every_conversation_stands_whole_in_one_row() -> None:
    some = [conversation(size, seed) for seed, size in enumerate([30, 3, 17, 12, 5, 9, 30, 21, 2, 8])]
    packed = packing.pack(some, 32)
    assert len(packed) == 5, "137 tokens need five rows of 32 at least"
    found = []
    for row in packed:
        assert len(row.input_ids) == len(row.labels) == len(row.position_ids) <= 32
        starts = [place for place, position in enumerate(row.position_ids) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(row.input_ids)], strict=True):
            assert row.position_ids[start:end] == list(range(end - start))
            found.append((row.input_ids[start:end], row.labels[start:end]))
    assert sorted(found) == sorted((each.input_ids, each.labels) for each in some)
    assert packing.pack(some, 32) == packed


def packed_recipe(**given: Any) -> FinetuneRecipe:
    made = recipe()
    return made.model_copy(update={"batch": made.batch.model_copy(update={"packing": True}), **given})


def write(folder: Path, tokenizer_folder: Path, packing: bool) -> Any:
    """Rows of thirty conversations in files; returns their index."""
    model = folder / "model"
    model.mkdir(parents=True)
    for file in tokenizer_folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 512}')
    lines = [json.dumps({"input": "?" * (n % 7 + 1), "target": "x" * n}) for n in range(1, 31)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    made = packed_recipe() if packing else recipe()
    rows.write(made, of(folder / "pairs.jsonl"), model, Folder(folder / "rows"), Progress(quiet=True))
    return load_index(Folder(folder / "rows"))


def test_rows_in_files(tokenizer_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    plain, packed = (write(tmp_path / name, tokenizer_folder, name == "b") for name in "ab")
    assert packed.columns == packed.padded == ("input_ids", "labels", "position_ids")
    assert plain.padded == ("input_ids", "labels") and plain.seq_len == packed.seq_len
    assert sum(map(packed.rows, ("train", "validation"))) < sum(map(plain.rows, ("train", "validation"))) == 30
    reports = [json.loads((tmp_path / name / "rows/report.json").read_text()) for name in "ab"]
    assert reports[0] == reports[1], "it tells of conversations"
    for split in ("train", "validation"):
        (file,) = packed.splits[split]
        ids, labels, positions = (
            read_rows(Folder(tmp_path / "b/rows"), file.path, name) for name in ("input_ids", "labels", "position_ids")
        )
        known = read_rows(Folder(tmp_path / "b/rows"), file.path, LENGTH)
        filling = np.arange(packed.seq_len) >= known[:, None]
        assert (ids[filling] == tokenizer.pad_token_id).all() and (labels[filling] == IGNORED).all()
        assert (positions[filling] == 0).all() and (ids[~filling] != tokenizer.pad_token_id).all()
        assert int((labels != IGNORED).sum()) == reports[1][split]["trained_tokens"]
        assert int(known.sum()) == reports[1][split]["tokens"]


def test_what_cannot_share_rows_is_refused(tmp_path: Path) -> None:
    from manta.sections.adapt import Prefix
    from manta.sections.tasks import TaggingTask

    def said(made: FinetuneRecipe, kind: str = "llama") -> str:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(InputError, match=r"batch\.packing = True: ") as error:
            packing.check(made, Folder(tmp_path))
        return str(error.value)

    assert "task.name = 'tagging'" in said(packed_recipe(task=TaggingTask(name="tagging")))
    assert "adapt.method = 'prefix'" in said(packed_recipe(adapt=Prefix(method="prefix")))
    assert "is of type 'mamba': set batch.packing=false" in said(packed_recipe(), "mamba")
    packing.check(packed_recipe(), None)  # a package, which is looked at once it is unpacked
    packing.check(recipe(), Folder(tmp_path))
