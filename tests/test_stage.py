"""Running one recipe and a chain of them, with rooms that write a file in place of real work."""

import errno
import sys
import types
from pathlib import Path

import pytest
import yaml

from manta import pipeline, stage
from manta import recipe as recipes
from manta.errors import GateRefused, InputError, RecipeError, StageFailed
from manta.progress import Progress
from manta.storage import Folder


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Replace every room by one that notes its call and writes the recipe's seed as its result."""
    made: list[str] = []
    room = types.ModuleType("fake_room")

    def run(recipe, draft, progress):
        made.append(recipe.name)
        draft.folder.write_text("result.txt", str(recipe.seed))
        return {"final_loss": 1.0}

    room.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_room", room)
    monkeypatch.setattr(stage, "ROOMS", dict.fromkeys(stage.ROOMS, "fake_room"))
    return made


def write_chain(folder: Path) -> Path:
    source = {"sources": [{"path": "x", "format": "text"}]}
    budget = {"batch": {"samples": 8}, "stop": {"steps": 1}}
    recipes_by_file = {
        "prepare.yaml": {"kind": "prepare", "name": "shards", "data": source},
        "pretrain.yaml": {"kind": "pretrain", "name": "base", "data": {"shards": "shards"}, **budget},
        "finetune.yaml": {
            "kind": "finetune",
            "name": "tuned",
            "data": {"examples": "shards"},
            "model": {"source": "base"},
            "task": {"name": "summarisation"},
            **budget,
        },
    }
    for name, raw in recipes_by_file.items():
        (folder / name).write_text(yaml.safe_dump(raw))
    chain = {"kind": "pipeline", "name": "chain", "output": str(folder / "runs"), "stages": list(recipes_by_file)}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(chain))
    return folder / "pipeline.yaml"


def run_chain(file: Path, *overrides: str, replace: bool = False) -> list[stage.Outcome]:
    return pipeline.run(pipeline.load(file, overrides)[1], Progress(quiet=True), replace)


def test_a_second_run_skips_everything(tmp_path, calls) -> None:
    file = write_chain(tmp_path)
    first = run_chain(file)
    assert calls == ["shards", "base", "tuned"]
    second = run_chain(file)
    assert calls == ["shards", "base", "tuned"] and all(outcome.skipped for outcome in second)
    assert [o.artifact.fingerprint for o in first] == [o.artifact.fingerprint for o in second]


def test_a_deleted_artifact_is_made_again_and_nothing_before_it(tmp_path, calls) -> None:
    file = write_chain(tmp_path)
    run_chain(file)
    Folder(tmp_path / "runs").clear("base")
    calls.clear()
    run_chain(file)
    assert calls == ["base"], "its bytes came back the same, so what depends on it still stands"


def test_an_input_that_came_back_different_remakes_what_depends_on_it(tmp_path, calls, monkeypatch) -> None:
    file = write_chain(tmp_path)
    run_chain(file)
    Folder(tmp_path / "runs").clear("base")
    calls.clear()
    plain = sys.modules["fake_room"].run

    def other(recipe, draft, progress):
        figures = plain(recipe, draft, progress)
        draft.folder.write_text("result.txt", f"other bytes of {recipe.name}")
        return figures

    monkeypatch.setattr(sys.modules["fake_room"], "run", other)
    run_chain(file)
    assert calls == ["base", "tuned"]


def test_changed_settings_need_replace_and_then_flow_down(tmp_path, calls) -> None:
    file = write_chain(tmp_path)
    run_chain(file)
    with pytest.raises(InputError, match="seed: 0 -> 5"):
        run_chain(file, "pretrain.seed=5")
    calls.clear()
    run_chain(file, "pretrain.seed=5", replace=True)
    assert calls == ["base", "tuned"]


def test_resume_finds_its_recipe_in_the_folder(tmp_path, calls, monkeypatch) -> None:
    file = write_chain(tmp_path)
    _, chain = pipeline.load(file)
    stage.run(chain[0], Progress(quiet=True))

    def dies(recipe, draft, progress):
        raise OSError(errno.ENOSPC, "No space left on device")

    plain = sys.modules["fake_room"].run
    monkeypatch.setattr(sys.modules["fake_room"], "run", dies)
    with pytest.raises(StageFailed, match=r"no space left .*`manta resume"):
        stage.run(chain[1], Progress(quiet=True))
    monkeypatch.setattr(sys.modules["fake_room"], "run", plain)
    outcome = stage.resume(str(tmp_path / "runs" / "base"), Progress(quiet=True))
    assert not outcome.skipped and outcome.artifact.name == "base"
    with pytest.raises(InputError, match="holds no run"):
        stage.resume(str(tmp_path / "nothing"), Progress(quiet=True))


def test_checks_come_before_work_and_verdicts_after_even_when_skipped(tmp_path, calls, monkeypatch) -> None:
    file = write_chain(tmp_path)
    _, chain = pipeline.load(file)
    room = sys.modules["fake_room"]

    def refuse(recipe, inputs):
        raise InputError("seq_len is too long")

    monkeypatch.setattr(room, "check", refuse, raising=False)
    with pytest.raises(InputError, match="too long"):
        stage.run(chain[0], Progress(quiet=True))
    assert calls == []
    monkeypatch.setattr(room, "check", lambda recipe, inputs: None)

    def verdict(recipe, made):
        raise GateRefused("recovery 80 < 95")

    monkeypatch.setattr(room, "verdict", verdict, raising=False)
    for _ in range(2):
        with pytest.raises(GateRefused):
            stage.run(chain[0], Progress(quiet=True))
    assert calls == ["shards"], "the refused artifact is written once and stays"


def test_a_pipelines_mistakes_show_together_before_anything_runs(tmp_path, calls) -> None:
    file = write_chain(tmp_path)
    with pytest.raises(RecipeError) as caught:
        pipeline.load(file, ["pretrain.data.shards=shard", "finetune.task.name=caht"])
    text = str(caught.value)
    assert "did you mean 'shards'" in text and "did you mean 'chat'" in text
    with pytest.raises(InputError, match="did you mean 'pretrain'"):
        pipeline.load(file, ["pretrian.seed=1"])
    assert calls == []


def test_output_override_moves_the_whole_chain(tmp_path, calls) -> None:
    outcomes = run_chain(write_chain(tmp_path), f"output={tmp_path / 'elsewhere'}")
    assert {outcome.artifact.folder.url.rpartition("/")[0] for outcome in outcomes} == {str(tmp_path / "elsewhere")}


def test_summary_names_every_artifact_and_what_to_try(tmp_path, calls) -> None:
    text = pipeline.summary(run_chain(write_chain(tmp_path)))
    for name in ("shards", "base", "tuned"):
        assert str(tmp_path / "runs" / name) in text
    assert "manta chat" in text and "manta lineage" in text


def test_every_run_leaves_its_page_and_is_complete_without_it(tmp_path, calls, monkeypatch) -> None:
    (first, *rest) = run_chain(write_chain(tmp_path))
    for outcome in (first, *rest):
        assert f"{outcome.artifact.kind} {outcome.artifact.name}" in outcome.artifact.folder.read_text("report.html")

    from manta.report import page

    def full(_: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(page, "write", full)
    outcomes = run_chain(tmp_path / "pipeline.yaml", f"output={tmp_path}/others")
    assert [outcome.skipped for outcome in outcomes] == [False, False, False]
    assert not outcomes[0].artifact.folder.exists("report.html")


def test_every_room_is_importable_without_heavy_libraries() -> None:
    import subprocess

    code = (
        "import importlib, sys\nfrom manta import stage\n"
        "for room in stage.ROOMS.values(): importlib.import_module(room)\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_kinds_and_rooms_agree() -> None:
    assert set(stage.ROOMS) == set(recipes.KINDS) - {"pipeline"}


def test_a_long_answer_stays_on_one_line() -> None:
    assert pipeline._cut("a\nb  c") == "a b c"
    assert len(pipeline._cut("word " * 100)) <= 80
