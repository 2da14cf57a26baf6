"""What a command loads, seen from a fresh process: answers that need no engine must not wait for one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.source_tree import ROOT

HEAVY = ["torch", "ray", "transformers", "pyarrow", "pandas", "numpy", "vllm", "deepspeed", "datasets"]
RECIPE = "jobs/recipes/quickstart/pretrain.yaml"


def loaded_after(code: str) -> set[str]:
    """Heavy modules in sys.modules after running `code` from the root of the repository."""
    probe = f"""
import contextlib, io, json, sys
with contextlib.redirect_stdout(io.StringIO()):
    try:
        exec({code!r})
    except SystemExit as end:
        assert not end.code, end.code
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["pretrain", "--help"],
        ["schema", "pretrain"],
        ["status"],
        ["prepare", "jobs/recipes/quickstart/prepare.yaml", "--dry-run"],
        ["run", "jobs/recipes/quickstart/pipeline.yaml", "--dry-run"],
    ],
    ids=" ".join,
)
def test_commands_that_need_no_engine_load_none(command: list[str]) -> None:
    assert loaded_after(f"from manta.cli import main; raise SystemExit(main({command!r}))") == set()


def test_validating_a_recipe_loads_no_engine() -> None:
    assert loaded_after(f"from manta import recipe; recipe.load({RECIPE!r})") == set()


def test_the_probe_sees_a_loaded_library() -> None:
    assert loaded_after("import numpy") == {"numpy"}


def test_platform_is_the_standard_library() -> None:
    """The source root is called platform too; an __init__.py in it would shadow the standard library's module."""
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform; print(platform.python_version())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip().startswith("3.11"), done.stderr
