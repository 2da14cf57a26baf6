"""Who may import whom: rooms meet through artifacts, each heavy library has one home, nothing heavy loads early."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.source_tree import ROOT, Imported, imports, modules, own_module, parse, tracked

# Every room may use what lies directly in platform/manta, except the command line and what it is made of.
ENTRY_POINTS = {
    "manta.cli",
    "manta.adapters",
    "manta.arguments",
    "manta.commands",
    "manta.pipeline",
    "manta.submit",
    "manta.doctor",
    "manta.chat",
}
VOCABULARY = "manta.sections"  # of recipes: it is no room, all may use it
# room -> what else of ours it may import (a prefix), itself aside.
ROOMS: dict[str, tuple[str, ...]] = {
    "manta.data": (),
    "manta.models": (),
    "manta.objectives": (),
    "manta.adapt": ("manta.models",),
    # The index of shards, to know their tokenizer; which rows share a longer one.
    "manta.tasks": ("manta.data.shards", "manta.data.layouts.best_fit"),
    "manta.train": (
        "manta.data.stream",
        "manta.data.shards",
        "manta.data.views",
        "manta.data.grouping",
        "manta.models",
        "manta.objectives",
        "manta.tasks",
        "manta.adapt",
    ),
    "manta.quick": ("manta.tasks", "manta.models", "manta.train.objective", "manta.doctor", "manta.data.shards"),
    "manta.tune": (
        "manta.train.run",
        "manta.train.marks",
        "manta.train.metrics",
        "manta.stage",
        "manta.evaluate.latency",
    ),
    "manta.compress": ("manta.models", "manta.tasks", "manta.data"),
    # What a token of a teacher's answers takes.
    "manta.plan": (
        "manta.models",
        "manta.objectives.stored",
        "manta.adapt.counting",
        "manta.data.shards",
        "manta.train",
        "manta.doctor",
    ),
    # Objectives and adapters: to compare as was learnt, and to prove that what is served is what was trained.
    "manta.evaluate": ("manta.models", "manta.objectives", "manta.adapt", "manta.tasks", "manta.data"),
    # Engines, and copies of a model that share work: what evaluation has as well.
    "manta.generate": (
        "manta.evaluate.copies",
        "manta.evaluate.engines",
        "manta.models",
        "manta.tasks",
        "manta.data",
    ),
    # How sure the shown figures are; which trials a sweep holds, and which of them are the best.
    "manta.report": ("manta.pipeline", "manta.evaluate", "manta.tasks.scoring.spans", "manta.tune"),
    # To open an encoder as it was measured: int8 weights by the kernels that its figures are of.
    "serving": ("manta.tasks", "manta.models.load"),
}
# library -> the only places that may import it.
HOMES: dict[str, tuple[str, ...]] = {
    # Beside the engine: the communication that DeepSpeed compiles, which set-up builds without loading the engine.
    "deepspeed": ("platform/manta/train/engine.py", "platform/manta/train/shm_op.py"),
    "vllm": ("serving/", "platform/manta/evaluate/vllm_engine.py"),
    "llmcompressor": ("benchmarks/yardsticks/",),
    "compressed_tensors": ("platform/manta/compress/",),
    "auto_round": ("platform/manta/compress/",),
    "peft": ("platform/manta/adapt/",),
    "datasets": ("platform/manta/compress/", "platform/manta/evaluate/harness/"),
    "lm_eval": ("platform/manta/evaluate/harness/",),
}
HEAVY = {
    "torch", "ray", "transformers", "pyarrow", "numpy", "pandas", "vllm", "deepspeed", "llmcompressor", "compressed_tensors",
    "peft", "datasets", "tokenizers", "tiktoken", "fastapi", "starlette", "openai", "safetensors", "sacrebleu", "tensorboard", "lm_eval",
}  # fmt: skip


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def edges() -> list[tuple[str, str, Imported]]:
    """(module, module of ours that it imports, how), for the whole tree."""
    found = []
    for module, path in modules().items():
        for item in imports(path):
            if item.name.split(".")[0] in ("manta", "serving") and (target := own_module(item.name)):
                found.append((module, target, item))
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    broken = []
    for module, target, item in edges():
        if room_of(module) != room or within(target, (room, *ROOMS[room])):
            continue
        if room_of(target) is None and target not in ENTRY_POINTS:
            continue
        broken.append(f"{module}:{item.line} imports {item.name}")
    assert not broken, f"{room} may import {ROOMS[room] or 'no other room'}:\n" + "\n".join(broken)


def test_every_room_has_a_rule() -> None:
    folders = {f"manta.{p.name}" for p in (ROOT / "platform" / "manta").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert folders - {VOCABULARY} <= set(ROOMS), "say in ROOMS what a new room may import"


def test_the_core_does_not_know_the_rooms() -> None:
    """What every room builds on must not lean on one of them; rooms are called by name, from `stage.ROOMS`."""
    core = {"manta.errors", "manta.schema", "manta.recipe", "manta.artifact", "manta.storage", "manta.stage"}
    core |= {"manta.progress", "manta.cluster"}
    broken = [
        f"{module}:{i.line} imports {i.name}" for module, target, i in edges() if module in core and room_of(target)
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_has_one_home(library: str) -> None:
    broken = []
    for path in modules().values():
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(HOMES[library]):
            broken += [f"{place}:{item.line}" for item in imports(path) if item.name.split(".")[0] == library]
    assert not broken, f"{library} belongs to {', '.join(HOMES[library])}, not to:\n" + "\n".join(broken)


def test_ray_is_started_and_stopped_in_one_place() -> None:
    broken = []
    for path in [*modules().values(), *tracked("jobs/*.py")]:
        place = path.relative_to(ROOT).as_posix()
        for node in ast.walk(parse(path)):
            starts = isinstance(node, ast.Call) and ast.unparse(node.func) in ("ray.init", "ray.shutdown")
            if starts and place != "platform/manta/cluster.py":
                broken.append(f"{place}:{node.lineno}")
    assert not broken, "use manta.cluster.connect and disconnect instead:\n" + "\n".join(broken)


def loaded_by(start: str) -> dict[str, str]:
    """Heavy libraries that load with a module, each with the chain of imports that does it."""
    chains = {start: start}
    pending = [start]
    heavy = {}
    while pending:
        module = pending.pop()
        for item in imports(modules()[module]):
            if not item.top:
                continue
            library = item.name.split(".")[0]
            if library in HEAVY:
                heavy[library] = f"{chains[module]} -> {item.name}"
            for target in _packages(own_module(item.name)):
                if target not in chains:
                    chains[target] = f"{chains[module]} -> {target}"
                    pending.append(target)
    return heavy


def _packages(module: str | None) -> list[str]:
    """A module and the packages around it: Python loads all of them."""
    if module is None:
        return []
    parts = module.split(".")
    return [name for size in range(1, len(parts) + 1) if (name := ".".join(parts[:size])) in modules()]


def light_modules() -> list[str]:
    """What loads before any work starts: the core, the command line, and each room's entry."""
    from manta.stage import ROOMS as ENTRIES

    core = [module for module in modules() if module.startswith("manta.") and room_of(module) is None]
    return sorted({*core, *ENTRIES.values()})


@pytest.mark.parametrize("module", light_modules())
def test_nothing_heavy_loads_before_work_starts(module: str) -> None:
    heavy = loaded_by(module)
    assert not heavy, "import inside the function that needs it:\n" + "\n".join(heavy.values())


def test_the_rules_see_what_they_should(tmp_path: Path) -> None:
    """The reader of imports itself: nested, conditional and aliased imports are all seen, with their place."""
    sample = tmp_path / "sample.py"
    sample.write_text(
        "import torch\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import never\n"
        "try:\n    import early\nexcept ImportError:\n    import fallback\n"
        "class A:\n    import inclass\n    def f(self):\n        from ray import data as d\n"
    )
    found = {item.name: item.top for item in imports(sample)}
    assert found == {
        "torch": True,
        "typing.TYPE_CHECKING": True,
        "early": True,
        "fallback": True,
        "inclass": True,
        "ray.data": False,
    }
