"""What a teacher says is stored once, of the rows that training visits, whoever computes it; teachers that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta import recipe as recipes
from manta.artifact import Draft, resolve_inputs
from manta.data.shards import INDEX, load_index
from manta.data.stream import read_steps
from manta.errors import InputError
from manta.models.load import load
from manta.objectives import loss_of, stored
from manta.progress import Progress
from manta.storage import Folder
from manta.train import lessons, run, teacher
from manta.train.job import Job, model_of
from manta.train.marks import Marks
from tests.train import school

TOP_K = 8
WORDS = school.SEQ * (TOP_K + 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a teacher and a student."""
    folder = tmp_path_factory.mktemp("school")
    rows = school.shards(folder)
    school.llama(folder / "teacher", rows, 2, seed=1, steps=20)
    school.llama(folder / "student", rows, 1)
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, no_processes: None) -> None:
    """Ten rows a piece, four of them at once."""
    monkeypatch.setattr(lessons, "SLICE_BYTES", 10 * 4 * WORDS)
    monkeypatch.setattr(lessons, "TOKENS_AT_ONCE", 4 * school.SEQ)


def recipe(place: Path, output: Path, **given: Any) -> recipes.Recipe:
    objective = {"top_k": TOP_K, **given.pop("objective", {})}
    if objective.get("teacher_mode") == "live":
        del objective["top_k"]
    return school.recipe(place / "shards", place / "student", place / "teacher", output, objective=objective, **given)


def job(place: Path, output: Path, **given: Any) -> Job:
    wanted = recipe(place, output, **given)
    assert isinstance(wanted, recipes.KINDS["pretrain"])
    return school.job(wanted)


def pieces(found: Job) -> dict[str, str]:
    """Name -> hash of what is stored."""
    assert found.feed.beside is not None
    folder = Folder(found.feed.beside.folder)
    return {name: folder.file_sha256(name) for name in folder.files() if name.startswith("train/")}


def test_what_a_step_is_given_is_what_the_teacher_says(place: Path, tmp_path: Path) -> None:
    """Five steps of 16 of 400 rows: 80 rows are asked, and no other; the second epoch is given the same again."""
    found = job(place, tmp_path, stop={"steps": 5}, seed=3)
    lessons.store(found, Progress(quiet=True))
    assert len(lessons.visited(found.feed)) == 80 and len(pieces(found)) == 8
    assert found.feed.beside is not None
    told_of = load_index(found.feed.beside.folder).splits["train"]
    assert [shard.rows for shard in told_of] == [10] * 8 and all(shard.bytes > 0 for shard in told_of)
    batch = read_steps(found.feed, np.arange(5), 0, 1)
    assert batch["teacher"].shape == (5, 16, WORDS) and batch["teacher"].dtype == np.int32
    half = read_steps(found.feed, np.array([4]), 1, 2)
    assert np.array_equal(half["teacher"][0], batch["teacher"][4, 8:])
    wise = load(place / "teacher").eval()
    with torch.no_grad():
        logits = wise(input_ids=torch.from_numpy(batch["input_ids"][2]).long()).logits.flatten(0, 1)
    expected = stored.likeliest(logits, TOP_K, 1.0, school.VOCAB)
    told = stored.unpack(torch.from_numpy(batch["teacher"][2]).reshape(-1, TOP_K + 1), school.VOCAB)
    assert (told[0] == expected[0]).float().mean() > 0.999, "near ties may fall either way"
    torch.testing.assert_close(told[1], expected[1], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(told[2], expected[2], rtol=2e-3, atol=2e-3)


def test_an_epoch_after_another_asks_nothing_twice(place: Path, tmp_path: Path) -> None:
    found = job(place, tmp_path, stop={"epochs": 2.0})
    assert np.array_equal(lessons.visited(found.feed), np.arange(school.TRAIN)) and found.feed.steps == 50


def test_who_computes_it_changes_no_bit(place: Path, tmp_path: Path) -> None:
    alone = job(place, tmp_path / "alone", stop={"steps": 5})
    lessons.store(alone, Progress(quiet=True))
    three = {"workers": 2, "micro_batch": 4}
    shared = job(place, tmp_path / "shared", stop={"steps": 5}, resources=three)
    lessons.store(shared, Progress(quiet=True))
    assert pieces(alone) == pieces(shared) and len(pieces(alone)) == 8


def test_a_killed_pass_goes_on_where_it_was(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = job(place, tmp_path / "whole", stop={"steps": 5})
    lessons.store(whole, Progress(quiet=True))
    found, asked = job(place, tmp_path / "killed", stop={"steps": 5}), list[int]()
    rows_of = lessons.of_rows

    def until(model: Any, columns: Any, lesson: Any) -> Any:
        asked.append(len(columns["input_ids"]))
        if len(asked) == 4:
            raise RuntimeError("killed")
        return rows_of(model, columns, lesson)

    monkeypatch.setattr(lessons, "of_rows", until)
    with pytest.raises(RuntimeError, match="killed"):
        lessons.store(found, Progress(quiet=True))
    assert len(pieces(found)) == 3 and found.feed.beside is not None
    assert not Folder(found.feed.beside.folder).exists(INDEX)
    lessons.store(found, Progress(quiet=True))
    assert pieces(found) == pieces(whole)
    assert len(asked) == 4 + 5, "three pieces of eight were there"
    lessons.store(found, Progress(quiet=True))
    assert len(asked) == 9, "all of it is there"


def test_rows_that_were_never_asked_are_missed(place: Path, tmp_path: Path) -> None:
    found = job(place, tmp_path, stop={"steps": 5})
    lessons.store(found, Progress(quiet=True))
    longer = replace(found.feed, steps=20)
    with pytest.raises(RuntimeError, match="does not hold all training rows"):
        read_steps(longer, np.array([15]), 0, 1)


def test_runs_of_a_sweep_share_what_does_not_differ(place: Path, tmp_path: Path) -> None:
    def folder(**given: Any) -> str:
        wanted = recipe(place, tmp_path, **given)
        inputs = resolve_inputs(wanted)
        draft = Draft(Folder(tmp_path / "trial"), {}, inputs, resumed=False)
        marks = Marks((), None, "trial", str(tmp_path / "shared"))
        found: Job = run.make_job(wanted, draft, None, Progress(quiet=True), marks)
        assert found.feed.beside is not None
        return found.feed.beside.folder

    first = folder()
    assert first.startswith(str(tmp_path / "shared"))
    assert folder(optimizer={"lr": 1e-4, "precision": "fp32"}) == folder(objective={"hard_weight": 0.9}) == first
    others = [{"objective": {"temperature": 2.0}}, {"objective": {"top_k": 4}}, {"stop": {"steps": 9}}, {"seed": 1}]
    assert len({first, *(folder(**other) for other in others)}) == 5


# --- a teacher at hand -----------------------------------------------------------------------------------------------


def test_a_teacher_at_hand_is_asked_and_nothing_is_stored(place: Path, tmp_path: Path) -> None:
    found = job(place, tmp_path, objective={"teacher_mode": "live", "hidden": {}})
    assert found.feed.beside is None and found.feed.delivered == ("input_ids",)
    wise = teacher.at_hand(found)
    assert not wise.training and not any(parameter.requires_grad for parameter in wise.parameters())
    student = model_of(found, lambda _: None)
    loss, _ = loss_of(found.objective, wise)(student, school.read(place / "shards", 0))
    assert float(loss.detach()) > 0 and not hasattr(student, "projection")
    assert teacher.at_hand(job(place, tmp_path)) is None


def test_a_teacher_of_another_width_brings_a_layer(place: Path, tmp_path: Path) -> None:
    wide = school.llama(tmp_path / "wide", place / "shards", hidden_size=48)
    given = {"teacher": str(wide), "teacher_mode": "live", "hidden": {"measure": "mse"}}
    student = model_of(job(place, tmp_path, objective=given), lambda _: None)
    assert student.projection.weight.shape == (48, 32)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_teachers_that_do_not_fit_are_refused(place: Path, tmp_path: Path) -> None:
    def said(folder: Path, config: dict[str, Any], **given: Any) -> str:
        folder.mkdir(exist_ok=True)
        known = json.loads((place / "teacher/config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | config))
        with pytest.raises(InputError) as refused:
            job(place, tmp_path, objective={"teacher": str(folder), **given})
        return str(refused.value)

    assert "of type 'bert', an encoder, and only decoders" in said(tmp_path / "bert", {"model_type": "bert"})
    short = said(tmp_path / "short", {"max_position_embeddings": 16})
    assert "reads rows of at most 16 tokens, and these have 32: prepare rows with a lower data.seq_len" in short
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    told = json.loads((place / "teacher/tokenizer.json").read_text())
    told["model"]["vocab"] = {token: number + 1 for token, number in told["model"]["vocab"].items()}
    (foreign / "tokenizer.json").write_text(json.dumps(told))
    text = said(foreign, {})
    assert "has another tokenizer than the rows" in text and "has to be taught before it is trimmed" in text
    given = {"teacher_mode": "live", "hidden": {}}
    assert "set objective.hidden=null" in said(tmp_path / "lstm", {"model_type": "lstm"}, **given)


def test_a_teacher_is_an_input_of_the_run(place: Path, tmp_path: Path) -> None:
    wanted = recipe(place, tmp_path)
    inputs = resolve_inputs(wanted)
    assert set(inputs) == {"data.shards", "model.source", "objective.teacher"}
    prints = {role: item.fingerprint for role, item in inputs.items()}
    other = prints | {"objective.teacher": "0" * 64}
    assert recipes.fingerprint(wanted, prints) != recipes.fingerprint(wanted, other)
