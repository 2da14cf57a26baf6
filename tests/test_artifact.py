"""Artifacts: completion, resuming, refusing, locking, lineage; and the folders they live in."""

import json
import subprocess
import sys

import pytest

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.artifact import Artifact, Draft
from manta.errors import InputError, StageFailed
from manta.sections.base import Input
from manta.storage import Folder


def pretrain(output: str, **changes: object):
    raw = {"kind": "pretrain", "name": "base", "output": output, "data": {"shards": "shards"}}
    raw |= {"batch": {"samples": 8}, "stop": {"steps": 1}}
    for path, value in changes.items():
        recipes.set_path(raw, path.replace("__", "."), value)
    return recipes.validate(raw)


def make_shards(output: str, text: str = "one") -> Artifact:
    """A finished `prepare` artifact whose documents hash to something that depends on `text`."""
    raw = {
        "kind": "prepare",
        "name": "shards",
        "output": output,
        "data": {"sources": [{"path": "x", "format": "text"}]},
    }
    with artifacts.draft(recipes.validate(raw), {}, inventory=text, replace=True) as begun:
        assert isinstance(begun, Draft)
        begun.folder.write_text("data.txt", text)
        begun.add_input("documents", kind="documents", fingerprint=recipes.digest(text), content=recipes.digest(text))
        return begun.finish({"rows": 1})


def make_base(output: str, text: str = "weights") -> Artifact:
    recipe = pretrain(output)
    with artifacts.draft(recipe, artifacts.resolve_inputs(recipe), None, replace=False) as begun:
        assert isinstance(begun, Draft)
        begun.folder.write_text("model/weights", text)
        return begun.finish({"final_loss": 3.5})


def begin(recipe, replace: bool = False) -> Draft | Artifact:
    with artifacts.draft(recipe, artifacts.resolve_inputs(recipe), None, replace) as begun:
        return begun


def test_a_finished_run_is_found_again_and_an_unfinished_one_is_carried_on(tmp_path) -> None:
    output = str(tmp_path)
    make_shards(output)
    first = begin(pretrain(output))
    assert isinstance(first, Draft) and not first.resumed
    with pytest.raises(InputError, match="is not finished: run `manta resume"):
        artifacts.open_artifact("base", output)
    second = begin(pretrain(output))
    assert isinstance(second, Draft) and second.resumed
    made = make_base(output)
    again = begin(pretrain(output))
    assert isinstance(again, Artifact) and again.fingerprint == made.fingerprint
    assert artifacts.open_artifact("base", output).metrics == {"final_loss": 3.5}


def test_resources_do_not_ask_for_a_new_run(tmp_path) -> None:
    make_shards(str(tmp_path))
    make_base(str(tmp_path))
    assert isinstance(begin(pretrain(str(tmp_path), resources__workers=2)), Artifact)


def test_other_settings_never_overwrite_silently(tmp_path) -> None:
    output = str(tmp_path)
    make_shards(output)
    made = make_base(output)
    with pytest.raises(InputError, match=r"stop\.steps: 1 -> 2") as caught:
        begin(pretrain(output, stop__steps=2))
    assert "--replace" in str(caught.value)
    assert artifacts.open_artifact("base", output).fingerprint == made.fingerprint
    replaced = begin(pretrain(output, stop__steps=2), replace=True)
    assert isinstance(replaced, Draft) and not replaced.folder.exists("model/weights")


def test_changed_inputs_make_a_new_run_and_equal_ones_do_not(tmp_path) -> None:
    output = str(tmp_path)
    shards = make_shards(output, "one")
    make_base(output)
    Folder(output).clear("shards")
    assert make_shards(output, "one").fingerprint == shards.fingerprint
    assert isinstance(begin(pretrain(output)), Artifact), "the same bytes came back: nothing to do"
    Folder(output).clear("shards")
    make_shards(output, "two")
    again = begin(pretrain(output))
    assert isinstance(again, Draft) and not again.folder.exists("model/weights")


def test_content_hash_covers_the_result_and_not_the_working_files(tmp_path) -> None:
    folder = Folder(tmp_path / "x")
    folder.write_text("model/a", "1")
    before = artifacts.content_hash(folder)
    for name in (
        "checkpoints/step-1/a",
        "metrics.jsonl",
        "work/rows",
        "trials/1/a",
        "tensorboard/e",
        "report.html",
        "train/.0.parquet.7.tmp",
    ):
        folder.write_text(name, "noise")
    assert artifacts.content_hash(folder) == before
    folder.write_text("model/a", "2")
    assert artifacts.content_hash(folder) != before


def test_a_folder_in_use_is_refused(tmp_path) -> None:
    make_shards(str(tmp_path))
    recipe = pretrain(str(tmp_path))
    with artifacts.draft(recipe, artifacts.resolve_inputs(recipe), None, replace=False):
        with pytest.raises(StageFailed, match="in use by process"):
            begin(recipe)


def test_a_kill_during_the_very_first_write_leaves_no_stranger(tmp_path) -> None:
    make_shards(str(tmp_path))
    Folder(tmp_path / "base").write_text(".manifest.json.123.tmp", "{")
    assert isinstance(begin(pretrain(str(tmp_path))), Draft)


def test_the_lock_dies_with_its_process(tmp_path) -> None:
    code = (
        "import os,sys,signal; from manta import artifact; from manta.storage import Folder\n"
        "f = Folder(sys.argv[1]); f.make()\n"
        "with artifact._lock(f): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / ".lock").read_text()
    with artifacts._lock(Folder(tmp_path)):
        pass


def test_foreign_files_and_unwritable_places_are_refused(tmp_path) -> None:
    make_shards(str(tmp_path))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "thesis.doc").write_text("mine")
    with pytest.raises(InputError, match="not Manta's"):
        begin(pretrain(str(tmp_path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"set output=\.\.\."):
        begin(pretrain(str(tmp_path / "file"), data__shards=str(tmp_path / "shards")))


def test_missing_and_wrong_inputs_say_what_to_do(tmp_path) -> None:
    output = str(tmp_path)
    with pytest.raises(InputError, match=r"data\.shards = 'shards': .*does not exist"):
        artifacts.resolve_inputs(pretrain(output))
    make_shards(output)
    make_base(output)
    with pytest.raises(InputError, match="is a pretrain, but one of these is needed: prepare"):
        artifacts.resolve("data.shards", "base", Input(("prepare",)), output)
    with pytest.raises(InputError, match="pip install no-such-package"):
        artifacts.resolve("model.source", "package:no-such-package", Input(("package",)), output)
    (tmp_path / "base" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        artifacts.open_artifact("base", output)


def test_files_and_model_directories_are_inputs_too(tmp_path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    one = artifacts.resolve("data.examples", str(tmp_path / "pairs.jsonl"), Input(("file",)), "runs")
    model = artifacts.resolve("model.source", str(tmp_path / "hf"), Input(("directory",)), "runs")
    assert (one.kind, model.kind) == ("file", "directory")
    (tmp_path / "hf" / "config.json").write_text('{"a": 1}')
    changed = artifacts.resolve("model.source", str(tmp_path / "hf"), Input(("directory",)), "runs")
    assert changed.fingerprint != model.fingerprint


def test_lineage_reaches_the_documents_and_survives_a_lost_parent(tmp_path) -> None:
    make_shards(str(tmp_path))
    tree = artifacts.lineage(make_base(str(tmp_path)))
    assert tree["inputs"]["data.shards"]["inputs"]["documents"]["content"] == recipes.digest("one")
    Folder(tmp_path).clear("shards")
    tree = artifacts.lineage(artifacts.open_artifact("base", str(tmp_path)))
    assert tree["inputs"]["data.shards"]["kind"] == "prepare" and "inputs" not in tree["inputs"]["data.shards"]


def test_manifest_is_plain_json_with_versions_and_hardware(tmp_path) -> None:
    make_shards(str(tmp_path))
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert manifest["versions"]["python"].startswith("3.11") and manifest["hardware"]["cores"] >= 1
    assert recipes.validate(manifest["recipe"]).kind == "prepare"


@pytest.mark.parametrize("where", ["local", "memory"])
def test_folder_verbs(tmp_path, where: str) -> None:
    folder = Folder(tmp_path / "f") if where == "local" else Folder(f"memory://manta-test/{tmp_path.name}")
    folder.make()
    folder.write_text("a/b.txt", "é")
    assert folder.read_text("a/b.txt") == "é" and folder.exists("a/b.txt") and folder.files() == ["a/b.txt"]
    assert folder.size() == 2
    with pytest.raises(FileNotFoundError):
        folder.read_text("nothing")
    with folder.staged("model") as scratch:
        (scratch / "weights").write_text("w")
        assert not folder.exists("model")
    with folder.local("model") as path:
        assert (path / "weights").read_text() == "w"
    with pytest.raises(ZeroDivisionError), folder.staged("broken") as scratch:
        (scratch / "half").write_text("h")
        raise ZeroDivisionError
    assert not folder.exists("broken")
    assert folder.file_sha256("model/weights") == "50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
    folder.clear("model")
    assert folder.files() == ["a/b.txt"]
    folder.clear()
    assert folder.files() == []


def test_a_store_without_its_package_is_refused_with_the_remedy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"s3://bucket/runs: .*s3fs.* with pip"):
        Folder("s3://bucket/runs").exists("manifest.json")
    with pytest.raises(InputError, match=r"nowhere://bucket/runs: .* use a path, or s3://"):
        Folder("nowhere://bucket/runs").exists("manifest.json")
