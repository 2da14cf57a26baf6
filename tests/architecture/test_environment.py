"""The locks, the images and the manifests agree with each other, and the set-up script does what it says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.architecture.source_tree import ROOT, tracked

LOCKS = ["cpu", "gpu", "dev", "smollm2", "bench", "harness"]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"requirements_{name}", ROOT / "requirements" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


lock, install = script("lock"), script("install")


# --- locks -----------------------------------------------------------------------------------------------------------


def test_the_environment_is_what_the_locks_say() -> None:
    command = [sys.executable, ROOT / "requirements" / "lock.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_everything_its_input_names(name: str) -> None:
    pins = lock.read_lock(name)
    for requirement in lock.read_requirements(ROOT / "requirements" / f"{name}.in"):
        version = pins[lock.canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is locked at {version}"


def test_cpu_and_gpu_share_their_versions() -> None:
    """What both profiles hold is the same, but for what their engines themselves pin apart."""
    cpu, gpu = lock.read_lock("cpu"), lock.read_lock("gpu")
    apart = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert apart <= {"torch", "triton", "setuptools", "apache-tvm-ffi"}
    assert "+" not in gpu["torch"], "the gpu lock holds a CPU build of torch"


def test_layers_do_not_repeat_each_other() -> None:
    assert not lock.read_lock("dev").keys() & lock.read_lock("cpu").keys()
    assert not lock.read_lock("smollm2").keys() & lock.read_lock("cpu").keys()


def package(name: str, version: str, *requires: str) -> Any:
    return lock.Package(name, version, requires)


@pytest.mark.parametrize(
    ("packages", "allowed", "expected"),
    [
        ([package("a", "1", "b>=2"), package("b", "2")], [], []),
        ([package("a", "1", "b>=3"), package("b", "2")], [], ["a wants b>=3, the lock has 2"]),
        ([package("a", "1", "b>=3"), package("b", "2")], [("a", "b")], []),
        ([package("a", "1", "b")], [], ["a wants b, the lock has nothing"]),
        ([package("a", "1", "b"), package("b", "2")], [("a", "b")], ["overrides.toml: a wants b is satisfied now: remove the entry"]),
        ([package("a", "1", 'b; python_version < "3"')], [], []),
        ([package("a", "1", 'b; extra == "x"')], [], []),
        ([package("a", "1", "c[x]"), package("c", "1", 'b; extra == "x"')], [], ['c wants b; extra == "x", the lock has nothing']),
        ([package("a", "1"), package("stray", "1")], [], ["stray is in the lock but nothing asks for it"]),
    ],
)  # fmt: skip
def test_what_a_package_lacks_is_found(
    packages: list[Any], allowed: list[tuple[str, str]], expected: list[str]
) -> None:
    roots = [lock.Requirement("a")]
    assert lock.problems({item.name: item for item in packages}, roots, allowed) == expected


# --- set-up ----------------------------------------------------------------------------------------------------------


def test_half_installed_packages_are_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    whole, half, emptied = (site / f"{name}-1.dist-info" for name in ("whole", "half", "emptied"))
    for folder in (whole, half, emptied):
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Name: x")
    for folder in (whole, emptied):
        (folder / "INSTALLER").write_text("pip")
        (folder / "RECORD").write_text("x,," if folder == whole else "")
    (site / "~moved").mkdir()
    monkeypatch.setattr(install, "VENV", tmp_path)
    assert sorted(install.remove_half_installed()) == ["emptied-1.dist-info", "half-1.dist-info"]
    assert [path.name for path in site.iterdir()] == ["whole-1.dist-info"]


def test_the_stamp_changes_with_what_decides_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = install.fingerprint("cpu", [])
    assert first == install.fingerprint("cpu", [])
    assert first != install.fingerprint("gpu", [])
    assert first != install.fingerprint("cpu", ["smollm2"])
    for name in LOCKS:
        (tmp_path / f"{name}.lock").write_text("changed==1\n")
    monkeypatch.setattr(install, "REQUIREMENTS", tmp_path)
    assert first != install.fingerprint("cpu", [])


def test_a_torn_stamp_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "STAMP", tmp_path / "stamp.json")
    assert install.read_stamp() == {}
    (tmp_path / "stamp.json").write_text('{"profile": "cp')
    assert install.read_stamp() == {}


def test_a_machine_without_a_compiler_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="2"):
        install.refuse_unfit_machine("cpu")
    assert "g++ is not installed" in capsys.readouterr().err


def test_a_pip_without_cpu_torch_is_told_what_to_configure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def run(command: list[str], what: str, *_: Any) -> tuple[int, str]:
        calls.append(what)
        return 1, "ERROR: No matching distribution found for torch==2.13.0+cpu"

    monkeypatch.setattr(install, "run", run)
    with pytest.raises(SystemExit, match="2"):
        install.install_locks("cpu", [])
    assert "PIP_EXTRA_INDEX_URL" in capsys.readouterr().err
    assert calls == ["torch"], "torch comes first, so that nothing large is fetched in vain"


# --- cluster ---------------------------------------------------------------------------------------------------------


def manifests() -> dict[str, list[dict[str, Any]]]:
    return {path.name: list(yaml.safe_load_all(path.read_text())) for path in tracked("cluster/*.yaml")}


def test_manifests_run_the_locked_ray_with_authentication() -> None:
    ray = lock.read_lock("cpu")["ray"]
    clusters = []
    for documents in manifests().values():
        for document in documents:
            spec = document.get("spec", {})
            for part in (spec, spec.get("rayClusterSpec", {}), spec.get("rayClusterConfig", {})):
                if "headGroupSpec" in part:
                    clusters.append(part)
    assert len(clusters) == 3
    for part in clusters:
        assert part["rayVersion"] == ray
        assert part["authOptions"] == {"mode": "token"}
        for group in [part["headGroupSpec"], *part["workerGroupSpecs"]]:
            pod = group["template"]["spec"]
            mounted = {mount["name"] for box in pod["containers"] for mount in box["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod["volumes"]}


def test_manifests_call_what_exists() -> None:
    job, service = manifests()["job.yaml"][0]["spec"], manifests()["service.yaml"]
    for word in job["entrypoint"].split():
        if word.startswith("/app/"):
            assert (ROOT / word.removeprefix("/app/")).exists(), word
    application = yaml.safe_load(service[0]["spec"]["serveConfigV2"])["applications"][0]
    module, _, function = application["import_path"].partition(":")
    source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
    assert re.search(rf"^def {function}\(", source, re.MULTILINE)
    from manta import recipe

    shipped = next(iter(service[1]["data"].values()))
    recipe.validate(recipe.parse_yaml(shipped), origin="service.yaml", kind="serve")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_images_install_from_the_lock(name: str) -> None:
    text = (ROOT / "cluster" / f"Dockerfile.{name}").read_text()
    assert f"--no-deps -r requirements/{name}.lock" in text
    assert "FROM python:3.11" in text
