"""Task files of lm-evaluation-harness, read without it: which tasks there are, and what of them is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from manta.errors import InputError

HIDDEN = {"__pycache__", ".ipynb_checkpoints"}  # folders in which lm_eval looks for no task files
# Readers of files that `datasets` brings along, and what may be said to them: nothing that reaches outside the folder.
READERS = ("json", "csv", "parquet", "arrow", "text")
READING = {
    "data_files", "field", "delimiter", "sep", "names", "column_names", "header", "quotechar", "encoding", "columns",
    "sample_by", "keep_linebreaks",
}  # fmt: skip
PROMPTS = "qa-basic:"  # the prompts that lm_eval itself holds; others are read from anywhere
NOT_TEXT = ("doc_to_image", "doc_to_audio")

Config = Mapping[str, Any]


class Code(str):
    """The name of a Python function, as it stands after `!function`."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `!function NAME` is a name, and every other tag of Python's an error."""


def _named(loader: yaml.SafeLoader, node: yaml.Node) -> Code:
    """The text behind a tag. Raises yaml.YAMLError where a list or mapping stands there."""
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "!function wants a name", node.start_mark)
    return Code(loader.construct_scalar(node))


_Loader.add_constructor("!function", _named)


def read(folder: Path) -> dict[str, Config]:
    """Every task file below `folder` by its relative path, with what it includes put in. Raises InputError."""
    paths = sorted(path for path in folder.glob("**/*.yaml") if not HIDDEN & set(path.relative_to(folder).parts))
    if not paths:
        raise InputError(f"evaluate.harness.folder: {folder} holds no task file (*.yaml): name the folder that does")
    return {path.relative_to(folder).as_posix(): _whole(path, folder, ()) for path in paths}


def check(folder: Path, wanted: Sequence[str], allow_python: bool) -> dict[str, Config]:
    """As `read`. Raises InputError for names that no file gives, and for files that reach outside the folder or run code."""
    files = read(folder)
    for where, config in files.items():
        for part in mappings(config):
            _refuse_code(where, part, allow_python)
            _refuse_reach(where, part, folder)
    known = sorted(names(files))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            told = f"did you mean {near[0]!r}?" if near else f"known there are {', '.join(known) or 'none'}"
            raise InputError(f"evaluate.harness.tasks: {folder} has no task, group or tag {name!r}: {told}")
    if len(set(wanted)) < len(wanted):
        raise InputError(f"evaluate.harness.tasks = {list(wanted)}: a name is given twice; keep one")
    return files


def names(files: Mapping[str, Config]) -> set[str]:
    """The tasks, groups and tags that files define, by the keys that lm_eval tells them apart by."""
    found: set[str] = set()
    for config in files.values():
        if "group" in config and "class" not in config:
            found.add(str(config["group"]))
        elif isinstance(config.get("task"), str):
            tags = config.get("tag") or []
            found |= {config["task"], *([tags] if isinstance(tags, str) else tags)}
    return found


def mappings(node: Any) -> Iterator[Config]:
    """Every mapping inside a file: groups hold tasks, tasks hold metrics."""
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from mappings(value)


def _whole(path: Path, folder: Path, above: tuple[Path, ...]) -> Config:
    """A file with those that it includes below its own keys, as lm_eval merges them."""
    where = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"evaluate.harness: {above[-1].name} includes {where}, which is not below {folder}: put it there, so that the run's "
            "record holds all that was asked"
        )
    if path in above:
        raise InputError(f"evaluate.harness: {where} includes itself: remove that include")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"evaluate.harness: {where} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"evaluate.harness: {where} is not valid YAML: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"evaluate.harness: {where} holds no task: write a mapping that starts with `task: NAME`")
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _whole(path.parent / str(name), folder, (*above, path))
    return merged | config


def _refuse_code(where: str, part: Config, allow_python: bool) -> None:
    if part.get("unsafe_code"):
        raise InputError(
            f"evaluate.harness: {where} is to run what the model writes (unsafe_code): leave that task out"
        )
    named = [(key, value) for key, value in part.items() if isinstance(value, Code)]
    named += [
        (key, item)
        for key, value in part.items()
        if isinstance(value, list)
        for item in value
        if isinstance(item, Code)
    ]
    named += [("class", part["class"])] if "class" in part else []
    if named and not allow_python:
        key, function = named[0]
        raise InputError(
            f"evaluate.harness: {where} runs Python ({key}: {function}): read that code, and if you trust it set "
            "evaluate.harness.allow_python=true; else take the file out of the folder"
        )


def _refuse_reach(where: str, part: Config, folder: Path) -> None:
    """Raise InputError for data, prompts and metrics that come from elsewhere, and for questions that are not text."""
    data = part.get("dataset_path")
    if data is not None and data not in READERS:
        raise InputError(
            f"evaluate.harness: {where} wants dataset_path = {data!r}, which is not on this machine: save its rows as JSON lines "
            "below the folder and write dataset_path: json, dataset_kwargs: {data_files: {test: FILE.jsonl}}"
        )
    given = part.get("dataset_kwargs") or {}
    for key in sorted(set(given) - READING - {"trust_remote_code"}):
        raise InputError(
            f"evaluate.harness: {where} sets dataset_kwargs.{key}: leave it out; known are {', '.join(sorted(READING))}"
        )
    for pattern in _patterns(given.get("data_files", [])):
        _refuse_file(where, pattern, folder)
    prompt = part.get("use_prompt")
    if prompt is not None and not str(prompt).startswith(PROMPTS):
        raise InputError(f"evaluate.harness: {where} sets use_prompt = {prompt!r}: write the prompt into doc_to_text")
    if part.get("hf_evaluate"):
        raise InputError(f"evaluate.harness: {where} fetches a metric (hf_evaluate): use one that lm_eval itself has")
    for key in NOT_TEXT:
        if part.get(key) is not None:
            raise InputError(f"evaluate.harness: {where} sets {key}, and only text is asked: leave that task out")


def _patterns(given: Any) -> Iterator[str]:
    """The file names in `data_files`: one, a list, or either for each split."""
    if isinstance(given, Mapping):
        for value in given.values():
            yield from _patterns(value)
    elif isinstance(given, list):
        yield from map(str, given)
    else:
        yield str(given)


def _refuse_file(where: str, pattern: str, folder: Path) -> None:
    inside = (folder / pattern).resolve().is_relative_to(folder.resolve())
    if "://" in pattern or "::" in pattern or Path(pattern).is_absolute() or not inside:
        raise InputError(
            f"evaluate.harness: {where} reads {pattern!r}: put the file below {folder} and name it from there, so that the run's "
            "record holds all that was asked"
        )
    if not any(folder.glob(pattern)):
        raise InputError(f"evaluate.harness: {where} reads {pattern!r}, and no such file is below {folder}")
