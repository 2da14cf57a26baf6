"""Task files of lm-evaluation-harness, without it: which names they give, and which of them are refused and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from manta import artifact as artifacts
from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import run
from manta.evaluate.harness import files, stage
from tests.evaluate.harness_tasks import CHOICE, GROUP, SAY, TEXT, recipe_of, write
from tests.evaluate.parity_models import of_family


def folder_of(root: Path, **more: str) -> Path:
    return write(root / "tasks", choice=CHOICE, text=TEXT, say=SAY, all=GROUP, **more)


def test_names_are_those_of_tasks_groups_and_tags(tmp_path: Path) -> None:
    found = files.check(folder_of(tmp_path), ["choice", "all", "mine"], False)
    assert files.names(found) == {"choice", "text", "say", "all", "mine"}
    assert found["choice.yaml"]["dataset_path"] == "json", "what is included belongs to the task"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (["choise"], "did you mean 'choice'"),
        (["mmlu"], "known there are all, choice, mine, say, text"),
        (["say", "say"], "given twice"),
    ],
)
def test_a_name_that_no_file_gives_is_refused_with_a_near_one(tmp_path: Path, wanted: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        files.check(folder_of(tmp_path), wanted, False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: x\nprocess_docs: !function os.system", r"x\.yaml runs Python \(process_docs: os\.system\)"),
        ("task: x\nmetric_list: [{metric: !function a.b}]", r"metric: a\.b"),
        ("group: x\ntask: [{task: y, dataset_path: json, doc_to_text: !function a.b}]", r"doc_to_text: a\.b"),
        ("task: x\nfewshot_config: {samples: [!function a.b]}", r"samples: a\.b"),
        ("class: here.Task\ntask: x", r"class: here\.Task"),
    ],
)
def test_files_that_run_python_need_leave(tmp_path: Path, text: str, told: str) -> None:
    folder = folder_of(tmp_path, x=text)
    with pytest.raises(InputError, match=told) as refused:
        files.check(folder, ["choice"], False)
    assert "evaluate.harness.allow_python=true" in str(refused.value)
    assert "choice.yaml" in files.check(folder, ["choice"], True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: x\ndataset_path: super_glue", "dataset_path = 'super_glue', which is not on this machine: save its rows"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_files: ../secret.jsonl}", "put the file below"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_files: {test: [/etc/passwd]}}", "put the file below"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_files: {test: 'https://here/a.jsonl'}}", "put the file below"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}", "no such file"),
        ("task: x\ndataset_path: json\ndataset_kwargs: {data_dir: /}", "sets dataset_kwargs.data_dir"),
        ("task: x\nuse_prompt: 'elsewhere.yaml:a'", "sets use_prompt"),
        ("task: x\nmetric_list: [{metric: glue, hf_evaluate: true}]", "fetches a metric"),
        ("task: x\ndoc_to_image: picture", "sets doc_to_image"),
        ("task: x\nunsafe_code: true", "run what the model writes"),
        ("task: x\nfilter: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("include: ../outside.yaml\ntask: x", "includes .*outside.yaml, which is not below"),
        ("include: x.yaml\ntask: x", "includes itself"),
        ("[a, b]", "holds no task"),
    ],
)  # fmt: skip
def test_what_reaches_outside_the_folder_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "outside.yaml").write_text("task: y\n")
    for allowed in (False, True):
        with pytest.raises(InputError, match=told):
            files.check(folder_of(tmp_path, x=text), ["choice"], allowed)


def test_a_folder_without_task_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no task file"):
        files.check(tmp_path, ["choice"], False)


def test_the_tags_are_read_as_names_and_never_as_code() -> None:
    read = yaml.load("a: !function os.getcwd", Loader=files._Loader)
    assert read == {"a": "os.getcwd"}
    assert isinstance(read["a"], files.Code)


# --- as a part of the stage ------------------------------------------------------------------------------------------


def inputs_of(folder: Path, model: Path | None = None) -> dict[str, Resolved]:
    recipe = recipe_of(model or "/nowhere", folder, ["choice"])
    found = {"evaluate.harness.folder": artifacts.resolve("evaluate.harness.folder", str(folder), TASKS, "runs")}
    return found if model is None else {**found, **artifacts.resolve_inputs(recipe)}


TASKS = artifacts.Input(("tasks",))


def test_what_the_folder_holds_is_part_of_the_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    before = inputs_of(folder)["evaluate.harness.folder"]
    assert before.kind == "tasks"
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("")
    assert inputs_of(folder)["evaluate.harness.folder"] == before
    with (folder / "data" / "questions.jsonl").open("a") as file:
        file.write("\n")
    assert inputs_of(folder)["evaluate.harness.folder"].content != before.content


def test_tasks_alone_are_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "installed", lambda: True)
    folder, llama = folder_of(tmp_path), of_family("llama", tmp_path / "llama")
    run.check(recipe_of(llama, folder, ["choice"]), inputs_of(folder, llama))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["resources.workers=2"], "one process asks evaluate.harness"),
        (["evaluate.harness.tasks.0=chooce"], "did you mean 'choice'"),
        (["evaluate.harness.max_length=100000"], "exceeds the model's 1024 positions"),
        ([], "make env EXTRAS=harness"),
    ],
)
def test_what_cannot_be_asked_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], told: str
) -> None:
    monkeypatch.setattr(stage, "installed", lambda: False)
    folder, llama = folder_of(tmp_path), of_family("llama", tmp_path / "llama")
    with pytest.raises(InputError, match=told):
        run.check(recipe_of(llama, folder, ["choice"], *overrides), inputs_of(folder, llama))


def test_models_that_predict_no_next_token_are_refused(tmp_path: Path) -> None:
    folder, bert = folder_of(tmp_path), of_family("bert", tmp_path / "bert")
    with pytest.raises(InputError, match="is a bert model"):
        run.check(recipe_of(bert, folder, ["choice"]), inputs_of(folder, bert))
