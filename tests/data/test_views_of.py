"""Which view an objective gets over which shards, and what it says where they do not go together."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from manta.data import tokenizer, views
from manta.data.layouts import denoising
from manta.data.shards import Index
from manta.errors import InputError
from manta.sections import layout
from manta.sections.objective import Objective
from manta.sections.prepare import Tokenizer
from manta.storage import Folder

UNION: TypeAdapter[Any] = TypeAdapter(Objective)
SEQ = 32
PAIRS = ("input_ids", "token_type_ids", "attention_mask", "next_sentence_label")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("wordpiece")
    texts = [f"the {word}s of number {i} are {word}." for i in range(60) for word in ("garden", "painter", "reason")]
    tokenizer.make(Tokenizer.model_validate({"type": "wordpiece", "vocab_size": 300}), None, iter(texts), path)
    return Folder(path)


def index(folder: Folder, **given: Any) -> Index:
    known = tokenizer.facts(folder)
    plain = {
        "seq_len": SEQ,
        "vocab_size": known.vocab_size,
        "eos_id": known.eos_id,
        "bos_id": known.bos_id,
        "pad_id": known.pad_id,
        "splits": {},
    }
    return Index(**plain | given)


def of(folder: Folder, name: str, shards: dict[str, Any], **given: Any) -> Any:
    return views.of(UNION.validate_python({"name": name, **given}), index(folder, **shards), folder)


CASES: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...], tuple[str, ...]]] = [
    ("mlm", {}, {}, ("input_ids",), ("input_ids", "labels")),
    ("mlm", {"unit": "whole_word"}, {"columns": ("input_ids", "position_ids")}, ("input_ids", "position_ids"), ("input_ids", "position_ids", "labels")),
    ("mlm", {}, {"layout": "best_fit"}, ("input_ids",), ("input_ids", "attention_mask", "labels")),
    ("mlm", {}, {"layout": "best_fit", "columns": ("input_ids", "position_ids")}, ("input_ids", "position_ids"), ("input_ids", "position_ids", "labels")),
    ("mlm", {}, {"layout": "sentence_pairs", "columns": PAIRS}, PAIRS[:3], (*PAIRS[:3], "labels")),
    ("nsp", {}, {"layout": "sentence_pairs", "columns": PAIRS}, PAIRS, (*PAIRS, "labels")),
    ("multi_mlm", {}, {}, ("input_ids",), ("input_ids", "labels", "predecessor_labels")),
    ("denoising", {"method": {"kind": "infilling"}}, {}, ("input_ids",), ("input_ids", "attention_mask", "labels")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "shards", "columns_in", "columns_out"), CASES)
def test_columns_in_and_out(
    folder: Folder,
    name: str,
    given: dict[str, Any],
    shards: dict[str, Any],
    columns_in: tuple[str, ...],
    columns_out: tuple[str, ...],
) -> None:
    view = of(folder, name, shards, **given)
    assert set(view.columns_in) == set(columns_in) and set(view.columns_out) == set(columns_out)
    draw = np.random.default_rng(0)
    columns = {column: draw.integers(5, 100, (6, SEQ)).astype(np.int32) for column in view.columns_in}
    if "next_sentence_label" in columns:
        columns["next_sentence_label"] = np.arange(6, dtype=np.int32) % 2
    found = pickle.loads(pickle.dumps(view))(columns, np.arange(6), 3)
    assert set(found) == set(columns_out)
    assert all(values.dtype == np.int32 and len(values) == 6 for values in found.values())
    assert (found["labels"] != -100).any()
    for column in set(columns) - {"input_ids"}:
        assert np.array_equal(found[column], columns[column]), "passed on as it is"


@pytest.mark.parametrize("given", [{"name": "clm"}, {"name": "distillation", "teacher": "t"}])
def test_what_trains_on_rows_as_they_are_has_no_view(folder: Folder, given: dict[str, str]) -> None:
    assert of(folder, shards={}, **given) is None


def test_t5_is_shown_what_its_layout_hides(folder: Folder) -> None:
    known = tokenizer.Facts(300, 3, 2, 0, tuple(range(200, 260)))
    noise = denoising.noise(layout.Denoising(kind="denoising"), SEQ, known)
    view = of(folder, "denoising", {"layout": "denoising", "columns": denoising.COLUMNS, "noise": noise})
    rows = np.random.default_rng(0).integers(5, 100, (4, noise.tokens)).astype(np.int32)
    found = pickle.loads(pickle.dumps(view))({"input_ids": rows}, np.arange(4), 7)
    expected = denoising.corrupt(rows, np.arange(4), 7, noise)
    assert view.columns_in == ("input_ids",) and view.columns_out == tuple(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_real_text_is_masked_in_whole_words(folder: Folder) -> None:
    encode = tokenizer.encoders(folder.read_text("tokenizer.json"))["tokenizers"]
    ids = [2, *encode("the unreasonable gardenmen of number 12 are painters."), 3]
    rows = np.tile(np.array(ids, dtype=np.int32), (50, 1))
    found = of(folder, "mlm", {}, unit="whole_word", mask_fraction=0.4, replaced_by_mask=1.0, replaced_by_random=0.0)
    hidden = found({"input_ids": rows}, np.arange(50), 1)["labels"] != -100
    joined = found.ids.continues[ids]
    assert joined.any(), "words are cut"
    assert np.array_equal(hidden[:, 1:][:, joined[1:]], hidden[:, :-1][:, joined[1:]])
    assert not hidden[:, [0, -1]].any()


def test_a_tokenizer_without_a_mask_token(folder: Folder, tmp_path: Path) -> None:
    text = folder.read_text("tokenizer.json").replace("[MASK]", "[NONE]")
    (tmp_path / "tokenizer.json").write_text(text)
    for name, given in (("mlm", {}), ("nsp", {}), ("denoising", {"method": {"kind": "infilling"}})):
        objective = UNION.validate_python({"name": name, **given})
        with pytest.raises(InputError, match=r"no mask token: .*tokenizer\.special_tokens=\[<mask>\]"):
            views.of(objective, index(folder, columns=PAIRS), Folder(tmp_path))


def test_rows_that_are_not_what_is_needed(folder: Folder) -> None:
    with pytest.raises(InputError, match=r"data\.layout\.kind=sentence_pairs"):
        of(folder, "nsp", {})
    with pytest.raises(InputError, match=r"data\.layout\.kind=denoising, or set objective\.method\.kind=infilling"):
        of(folder, "denoising", {})
    with pytest.raises(InputError, match=r"data\.layout\.isolate=false"):
        of(folder, "denoising", {"columns": ("input_ids", "position_ids")}, method={"kind": "infilling"})
