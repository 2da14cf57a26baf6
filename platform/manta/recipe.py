"""What a run is: reads a recipe, applies overrides, reports every problem at once, and derives its identity."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from manta.errors import InputError, Problem, RecipeError
from manta.schema import KINDS, PipelineRecipe, Recipe
from manta.sections.base import Input

# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with two traps removed: `1e-3` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """Parse YAML text as recipes are parsed. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def kind_of(path: str | Path) -> str | None:
    """The kind that a recipe file names, valid or not; None where it cannot be told."""
    try:
        raw = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return raw.get("kind") if isinstance(raw, dict) else None


def load(path: str | Path, overrides: Sequence[str] = (), kind: str | None = None) -> Recipe | PipelineRecipe:
    """Read the recipe file at `path`, apply `key.path=value` overrides, and validate.

    Raises RecipeError (all problems at once) or InputError (no such file, broken YAML, broken override).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "; check the path"
        raise InputError(f"recipe {path} does not exist{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}") from None
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not valid YAML: {error}") from None
    return validate(override(raw, overrides), origin=str(path), kind=kind)


def override(raw: Any, overrides: Sequence[str]) -> Any:
    """Return `raw` with each `key.path=value` set; values are YAML; list items are addressed by number."""
    raw = json.loads(json.dumps(raw, default=str)) if overrides else raw
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals or not path:
            raise InputError(f"override {item!r} is not key.path=value: write for example optimizer.lr=3e-4")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise InputError(f"override {item!r}: the value is not valid YAML: {error}") from None
        set_path(raw, path, value)
    return raw


def set_path(raw: Any, path: str, value: Any) -> None:
    """Set `path` (dots between keys, numbers for list items) inside nested dicts and lists, making dicts on the way.

    Where a key that is there has dots of its own, such as a model's name, it is meant.
    """
    *parents, last = _keys(raw, path)
    node = raw
    for key in parents:
        if isinstance(node, list):
            node = _item(node, key, path)
        elif isinstance(node, dict):
            if not isinstance(node.get(key), (dict, list)):
                node[key] = {}
            node = node[key]
    if isinstance(node, list):
        _item(node, last, path)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"override {path}: the recipe is not a mapping")


def _keys(raw: Any, path: str) -> list[str]:
    """The keys of a dotted path into `raw`."""
    parts, keys, node = path.split("."), [], raw
    while parts:
        there = [size for size in range(len(parts), 1, -1) if isinstance(node, dict) and ".".join(parts[:size]) in node]
        size = there[0] if there else 1
        key, parts = ".".join(parts[:size]), parts[size:]
        keys.append(key)
        node = node.get(key) if isinstance(node, dict) else node[int(key)] if _has_item(node, key) else None
    return keys


def _has_item(node: Any, key: str) -> bool:
    return isinstance(node, list) and key.isdigit() and int(key) < len(node)


def _item(items: list[Any], key: str, path: str) -> Any:
    if not key.isdigit() or int(key) >= len(items):
        raise InputError(f"override {path}: {key!r} is not one of the {len(items)} items (0 to {len(items) - 1})")
    return items[int(key)]


# --- validating ------------------------------------------------------------------------------------------------------


def validate(raw: Any, origin: str = "recipe", kind: str | None = None) -> Recipe | PipelineRecipe:
    """Turn a raw mapping into a recipe of its kind. Raises RecipeError with every problem."""
    if not isinstance(raw, Mapping):
        raise RecipeError(origin, [Problem("(top)", raw, "a recipe is a mapping that starts with `kind: ...`")])
    named = raw.get("kind")
    if named not in KINDS:
        choices = ", ".join(KINDS)
        near = difflib.get_close_matches(str(named), KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(origin, [Problem("kind", named, f"choose one of {choices}{hint}")])
    if kind is not None and named != kind:
        command = "run" if named == "pipeline" else named
        raise RecipeError(
            origin, [Problem("kind", named, f"this command wants a {kind} recipe: use `manta {command}`")]
        )
    model = KINDS[named]
    try:
        return typing.cast("Recipe | PipelineRecipe", model.model_validate(dict(raw)))
    except ValidationError as error:
        raise RecipeError(origin, [_problem(model, raw, item) for item in error.errors()]) from None


def _problem(model: type[BaseModel], raw: Any, error: Any) -> Problem:
    """One pydantic error as path, value and remedy."""
    path: list[str] = []
    node: Any = raw
    location = error["loc"]
    for position, key in enumerate(location):
        names_a_key = position == len(location) - 1 and error["type"] != "value_error"  # that is of a whole section
        if isinstance(node, Mapping) and (key in node or names_a_key):
            path.append(str(key))
            node = node.get(key)
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            path.append(str(key))
            node = node[key]
        # anything else is a union's tag, which the user never wrote
    where = ".".join(path) or "(top)"
    kind, context = error["type"], error.get("ctx", {})
    value = None if kind == "missing" else node
    if kind == "extra_forbidden":
        return Problem(where, value, "unknown key" + _did_you_mean(model, path))
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return Problem(f"{where}.{tag}", None, "missing: this key is required")
    if kind == "missing":
        return Problem(where, None, "missing: this key is required")
    if kind == "value_error":
        return Problem(where, None, str(context.get("error", error["msg"])))
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        choices = re.findall(r"'([^']*)'", expected)
        if kind == "union_tag_invalid" and isinstance(node, Mapping):
            tag = context["discriminator"].strip("'")
            where, value = f"{where}.{tag}", node.get(tag)
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return Problem(where, value, f"choose {expected}{hint}")
    message = error["msg"]
    message = message[:1].lower() + message[1:].replace("Input should", "should")
    return Problem(where, value, message.replace("input should", "should") + _type_hint(kind, value))


def _type_hint(kind: str, value: object) -> str:
    if isinstance(value, str) and kind in ("int_type", "float_type", "bool_type"):
        return (
            f", not the text {value!r}: remove the quotes" if re.match(r"^[\d.\s_eE+-]+$|^(true|false)$", value) else ""
        )
    if isinstance(value, float) and kind == "int_type" and value.is_integer():
        return f": write {int(value)}"
    return f" (it is of type {type(value).__name__})" if kind.endswith("_type") else ""


def _did_you_mean(model: type[BaseModel], path: list[str]) -> str:
    """Suggest the place where this very key lives, else a sibling that is spelled alike."""
    known_paths = field_paths(model)
    names = [known.rpartition(".")[2] for known in known_paths if _fits(known.split(".")[:-1], path[:-1])]
    elsewhere = [known for known in known_paths if known.rpartition(".")[2] == path[-1]]
    if readers := _readers(model, path):
        return f" here: leave it out, or set {readers}"
    if elsewhere:
        return f": it belongs at {elsewhere[0]}"
    near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": known here are {', '.join(sorted(names))}" if names else ""


def _readers(model: type[BaseModel], path: list[str]) -> str:
    """The choices that do read a key which the chosen section does not, "adapt.method=lora or dora"; "" if none does."""
    sections = [model]
    for key in path[:-1]:
        fields = [section.model_fields[key] for section in sections if key in section.model_fields]
        if not fields:  # the number of a list's item, or the key of a mapping's
            continue
        sections = [found for field in fields for _, found in _models_in(field.annotation)]
    readers = [section for section in sections if path[-1] in section.model_fields]
    choice = (
        next(iter(readers[0].model_fields)) if readers else ""
    )  # a section of a choice starts with what it is chosen by
    chosen = [section.model_fields[choice].annotation for section in readers if choice in section.model_fields]
    names = [
        name for wanted in chosen if typing.get_origin(wanted) is typing.Literal for name in typing.get_args(wanted)
    ]
    if not names:
        return ""
    return f"{'.'.join([*path[:-1], choice])}={' or '.join(map(str, names))}"


def _fits(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """Whether keys are of a pattern, in which `*` stands for a number or a mapping's key."""
    return len(pattern) == len(path) and all(known in ("*", key) for known, key in zip(pattern, path, strict=True))


# --- walking a schema ------------------------------------------------------------------------------------------------


def _models_in(annotation: Any) -> Iterator[tuple[bool, type[BaseModel]]]:
    """The section classes inside an annotation, each with whether it sits in a list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield False, annotation
        return
    in_list = typing.get_origin(annotation) in (list, dict)
    for argument in typing.get_args(annotation):
        for nested, found in _models_in(argument):
            yield in_list or nested, found


def field_paths(model: type[BaseModel]) -> list[str]:
    """Every dotted field path of a schema; `*` stands for the items of a list and the keys of a mapping."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        if name not in paths:
            paths.append(name)
        for in_list, section in _models_in(field.annotation):
            prefix = f"{name}.*" if in_list else name
            paths.extend(p for p in (f"{prefix}.{inner}" for inner in field_paths(section)) if p not in paths)
    return paths


def _input_marker(field: FieldInfo) -> Input | None:
    found = [item for item in field.metadata if isinstance(item, Input)]
    stack = list(typing.get_args(field.annotation))
    while stack:
        item = stack.pop()
        if isinstance(item, Input):
            found.append(item)
        stack.extend(typing.get_args(item))
    return found[0] if found else None


def _marker_of_values(annotation: Any) -> Input | None:
    """The mark of a mapping's values, where they name inputs."""
    if typing.get_origin(annotation) is not dict:
        return None
    return next(
        (item for item in getattr(typing.get_args(annotation)[1], "__metadata__", ()) if isinstance(item, Input)), None
    )


def input_refs(section: BaseModel, prefix: str = "") -> dict[str, tuple[str, Input]]:
    """Each field that names an input and is set: dotted path -> (reference as written, its marker)."""
    refs: dict[str, tuple[str, Input]] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            refs.update(input_refs(value, f"{prefix}{name}."))
        elif isinstance(value, list | dict):
            of_each = _marker_of_values(field.annotation)
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(item, BaseModel):
                    refs.update(input_refs(item, f"{prefix}{name}.{key}."))
                elif of_each is not None:
                    refs[f"{prefix}{name}.{key}"] = (item, of_each)
        elif isinstance(value, str) and (marker := _input_marker(field)):
            refs[f"{prefix}{name}"] = (value, marker)
    return refs


# --- identity --------------------------------------------------------------------------------------------------------


def resolved(recipe: BaseModel) -> dict[str, Any]:
    """The recipe with every default filled in, as plain JSON data that `validate` accepts again."""
    return recipe.model_dump(mode="json")


def digest(data: Any) -> str:
    """SHA-256 (hex) of JSON data in canonical form: sorted keys, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def settings(recipe: Recipe) -> dict[str, Any]:
    """What the user decided: the resolved recipe without the fields that never change a result."""
    return without(resolved(recipe), recipe.not_identity)


def without(data: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A copy of nested data without the given dotted paths (`*`: each key); those it does not have are passed over."""
    copy: dict[str, Any] = json.loads(json.dumps(data))
    for path in paths:
        *parents, last = path.split(".")
        nodes: list[Any] = [copy]
        for key in parents:
            nodes = [found for node in nodes for found in (node.values() if key == "*" else [node.get(key) or {}])]
        for node in nodes:
            node.pop(last, None)
    return copy


def identity(recipe: Recipe, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The settings with each input reference replaced by that input's fingerprint."""
    data = json.loads(json.dumps(settings(recipe)))
    for path, value in inputs.items():
        set_path(data, path, value)
    return data


def fingerprint(recipe: Recipe, inputs: Mapping[str, str]) -> str:
    """SHA-256 of the identity and the inputs' fingerprints.

    So the same work on the same inputs has the same fingerprint wherever it is stored and however it is spread.
    """
    return digest({"settings": identity(recipe, inputs), "inputs": dict(inputs)})


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Human-readable list of leaves that differ: `stop.tokens: 1000 -> 2000`."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines.extend(differences(a, b, f"{prefix}{key}."))
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines


def to_yaml(recipe: BaseModel) -> str:
    """The resolved recipe as YAML in the schema's order."""
    return yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True)


def json_schema(kind: str) -> dict[str, Any]:
    """JSON Schema of a kind, for editors. Raises InputError for an unknown kind."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise InputError(
            f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return KINDS[kind].model_json_schema()
