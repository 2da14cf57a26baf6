"""Training rows on storage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import recipe as recipes
from manta.artifact import Resolved
from manta.data.shards import load_index
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.tasks.encoding import rows
from manta.tasks.encoding.conversation import Encoded


def of(file: Any) -> dict[str, Resolved]:
    """The inputs of a run whose examples are this file."""
    return {"data.examples": Resolved("data.examples", str(file), "file", str(file), "", "")}


def recipe(**task: Any) -> FinetuneRecipe:
    made = recipes.validate(
        {
            "kind": "finetune",
            "name": "t",
            "data": {"examples": "./x", "validation_fraction": 0.3},
            "model": {"source": "./m"},
            "task": {"name": "chat", **task},
            "batch": {"samples": 2},
            "stop": {"steps": 1},
        }
    )
    assert isinstance(made, FinetuneRecipe)
    return made


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    file = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"input": f"count to {n}", "target": "x" * n}) for n in range(1, 21)]
    file.write_text("\n".join(lines))
    return str(file)


def test_rows_are_padded_on_the_right_and_only_answers_are_labelled(
    pairs: str, tokenizer_folder: Path, tokenizer: Any, tmp_path: Path, silent: Progress
) -> None:
    import pyarrow.parquet as pq

    folder = Folder(tmp_path / "rows")
    rows.write(recipe(), of(pairs), tokenizer_folder, folder, silent)
    index = load_index(folder)
    assert index.seq_len % 8 == 0
    assert index.rows("train") + index.rows("validation") == 20
    assert index.rows("validation") > 0
    seen = set()
    for split, shards in index.splits.items():
        for shard in shards:
            table = pq.read_table(tmp_path / "rows" / shard.path)
            assert str(table.schema.field("labels").type) == f"fixed_size_list<element: int32>[{index.seq_len}]"
            ids, labels = (np.array(table.column(name).to_pylist()) for name in ("input_ids", "labels"))
            assert len(ids) == shard.rows, split
            pad = ids == tokenizer.pad_token_id
            assert (labels[pad] == -100).all()
            assert (np.diff(pad.astype(int), axis=1) >= 0).all(), "after the first padding there is only padding"
            learnt = labels != -100
            assert (labels[learnt] == ids[learnt]).all()
            seen |= {tokenizer.decode(row[row != -100]) for row in labels}
    assert seen == {"x" * n + "<|end|>" for n in range(1, 21)}


def test_the_same_examples_give_the_same_bytes(
    pairs: str, tokenizer_folder: Path, tmp_path: Path, silent: Progress
) -> None:
    for name in ("a", "b"):
        rows.write(recipe(), of(pairs), tokenizer_folder, Folder(tmp_path / name), silent)
    for file in Folder(tmp_path / "a").files():
        assert Folder(tmp_path / "a").file_sha256(file) == Folder(tmp_path / "b").file_sha256(file), file


def test_nothing_left_to_learn_is_refused(pairs: str, tokenizer_folder: Path, tmp_path: Path, silent: Progress) -> None:
    with pytest.raises(InputError, match=r"no token is left to learn.*raise task.max_tokens"):
        rows.write(recipe(max_tokens=5), of(pairs), tokenizer_folder, Folder(tmp_path / "rows"), silent)
    assert not (tmp_path / "rows" / "shards.json").exists()


def test_examples_longer_than_the_model_are_refused(tokenizer_folder: Path, tmp_path: Path, silent: Progress) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text("".join(json.dumps({"input": f"{n}" * 600, "target": "x"}) + "\n" for n in range(9)))
    with pytest.raises(
        InputError, match=r"task.max_tokens = 2048: the longest example has \d+ tokens, the model takes 512"
    ):
        rows.write(recipe(max_tokens=2048), of(file), tokenizer_folder, Folder(tmp_path / "rows"), silent)


def test_a_model_without_a_chat_template_is_refused_before_anything_starts(pairs: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer_config.json").write_text("{}")
    inputs = {
        "data.examples": Resolved("data.examples", pairs, "file", pairs, "", ""),
        "model.source": Resolved("model.source", "base", "directory", str(model), "", ""),
    }
    with pytest.raises(InputError, match="has no chat template"):
        rows.check(recipe(), inputs)
    (model / "chat_template.jinja").write_text("...")
    rows.check(recipe(), inputs)


def test_statistics_count_learnt_tokens_without_padding() -> None:
    figures = rows.statistics([Encoded([1, 2, 3, 4], [-100, -100, 3, 4], False), Encoded([5], [-100], True)])
    assert figures == {"rows": 2, "tokens": 5, "trained_tokens": 2, "trained_share": 0.4, "truncated_share": 0.5}
    assert rows.describe(figures, 8).startswith("2 training rows of at most 8 tokens; 40.0% of 5 tokens are learnt")
