"""`manta merge` and `manta unmerge`: adapters into a model's weights, out of them again, or several into one."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from manta import artifact
from manta.artifact import Resolved
from manta.errors import InputError
from manta.storage import Folder

ADAPTER = "adapter_config.json"


def merge(
    model: str,
    adapters: Sequence[str],
    output: str,
    method: str = "cat",
    density: float | None = None,
    seed: int = 0,
    keep_adapter: bool = False,
) -> str:
    """Write the model that has taken the adapters in, a Hugging Face directory, or (`keep_adapter`) what they become
    together, a PEFT directory. Returns a sentence that says what was made.

    `model` is a base and `adapters` are PEFT directories or runs, each perhaps with "=WEIGHT" behind it; without any,
    `model` is a run, whose own adapter is merged into the base it was trained on. See adapt.combining.load for
    `method`. Raises InputError for what cannot be merged, or if there is something at `output`.
    """
    from manta.adapt import combining

    target = _free(output)
    if not adapters:
        base, adapters = _base_of(model), [model]
    else:
        base = _model(model)
    with contextlib.ExitStack() as stack:
        given = [_weighted(word, stack) for word in adapters]
        source = stack.enter_context(_local(base))
        head = _labels(adapters[0].partition("=")[0]) if len(adapters) == 1 else None
        loaded = combining.load(source, given, method, density, seed, head)
        what = "adapter" if keep_adapter else "model"
        _write(combining.export(loaded)[what], target, None if keep_adapter else source)
    listed = " and ".join(
        f"{adapter.weight:g} of {word.partition('=')[0]}" for adapter, word in zip(given, adapters, strict=True)
    )
    return f"{output}: an adapter, {listed}, by {method}" if keep_adapter else f"{output}: {base.ref} with {listed}"


def unmerge(model: str, adapter: str, output: str) -> str:
    """Write the model as it was before `adapter` was merged into it. Returns a sentence that says so.

    Raises InputError for adapters that leave no way back, or if there is something at `output`.
    """
    from manta.adapt import combining

    target, merged = _free(output), _model(model)
    with contextlib.ExitStack() as stack:
        given = _weighted(adapter, stack)
        source = stack.enter_context(_local(merged))
        loaded = combining.load(source, [given], "cat", None, 0, _config_labels(source))
        _write(combining.export_unmerged(loaded)["model"], target, source)
    return f"{output}: {model} without {given.weight:g} of {adapter.partition('=')[0]}"


# --- what is named ---------------------------------------------------------------------------------------------------


def _weighted(word: str, stack: contextlib.ExitStack) -> Any:
    """The adapter of "FOLDER" or "FOLDER=WEIGHT", a PEFT directory or a run that left one."""
    from manta.adapt.combining import Weighted

    place, equals, number = word.partition("=")
    try:
        weight = float(number) if equals else 1.0
    except ValueError:
        raise InputError(f"adapter {word!r}: the weight behind = is a number, such as {place}=0.5") from None
    folder = Folder(place)
    if not folder.exists(ADAPTER):
        folder = folder / "adapter"
    if not folder.exists(ADAPTER):
        raise InputError(
            f"adapter {place!r} holds no {ADAPTER}, nor does {folder.url}: name a PEFT directory, or a run of adapt.method=lora"
        )
    return Weighted(stack.enter_context(folder.local()), weight)


def _model(ref: str) -> Resolved:
    """A whole model: a directory, a run that left one, or package:NAME."""
    if ref.startswith("package:"):
        return Resolved("model", ref, "package", ref, "", "")
    folder = Folder(ref)
    for kind, place in (("run", folder / "model"), ("directory", folder)):
        if place.exists("config.json"):
            return Resolved("model", ref, kind, folder.url, "", "")
    raise InputError(
        f"{ref} holds no model (config.json): name a Hugging Face directory, a run such as runs/NAME, or package:NAME"
    )


def _base_of(run: str) -> Resolved:
    """What a run's adapter was trained on."""
    made = artifact.open_artifact(run if "/" in run else f"./{run}")
    found = made.manifest["inputs"].get("model.source")
    if found is None or not (made.folder / "adapter").exists(ADAPTER):
        raise InputError(
            f"{run} left no adapter: name a run of adapt.method=lora, dora or ia3, or a base and its adapters"
        )
    return Resolved("model.source", found["ref"], found["kind"], found["path"], "", "")


def _local(found: Resolved) -> contextlib.AbstractContextManager[Path]:
    from manta.models import load

    return load.model_folder(found)


def _labels(adapter: str) -> dict[str, Any] | None:
    """What the labels of a run's head are called, where the adapter is a run's."""
    for place in (Folder(adapter), Folder(str(Path(adapter).parent))):
        if place.exists("model/config.json"):
            return _named(json.loads(place.read_text("model/config.json")))
        if place.exists("work/rows/labels.json"):
            from manta.tasks import labels

            return labels.load(place / "work/rows").config()
    return None


def _config_labels(model: Path) -> dict[str, Any] | None:
    return _named(json.loads((model / "config.json").read_text(encoding="utf-8")))


def _named(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if "id2label" not in config:
        return None
    names = {int(number): label for number, label in config["id2label"].items()}
    found: dict[str, Any] = {"id2label": names, "label2id": {label: number for number, label in names.items()}}
    return found | ({"problem_type": config["problem_type"]} if config.get("problem_type") else {})


# --- what is written -------------------------------------------------------------------------------------------------


def _free(output: str) -> Path:
    target = Path(output)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise InputError(f"--output {output}: there is something already: name a folder that is empty or not there")
    return target


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when all of it is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        if target.exists():
            target.rmdir()  # it is empty
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(writer: Any, target: Path, tokenizer: Path | None) -> None:
    from manta.train.export import TOKENIZER_FILES

    with _whole(target) as folder:
        writer(folder)
        if tokenizer is not None:
            for pattern in TOKENIZER_FILES:
                for file in sorted(tokenizer.glob(pattern)):
                    shutil.copyfile(file, folder / file.name)
