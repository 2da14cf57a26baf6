"""What a client asks of a task: read strictly, so that what is wrong is told with the name of its field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_INPUTS = 2048  # of one request, as OpenAI's for embeddings
FIELDS = ("model", "inputs", "parameters")

Truncation = bool | Literal["do_not_truncate", "longest_first", "only_first"]  # as Transformers' tokenizers have it

Item = Callable[[str, Any], Any]
Kind = TypeVar("Kind", bound=BaseModel)


class Wrong(ValueError):
    """A request that cannot be answered: `param` is the field, dotted; the text is for the client."""

    def __init__(self, param: str | None, message: str, status: int = 400):
        super().__init__(message)
        self.param = param
        self.status = status


class Strict(BaseModel):
    """Unknown names and loose types are refused. A parameter that is null counts as not given."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Request(NamedTuple):
    """Items that are checked, whether they came as a list, and how they are to be answered."""

    items: list[Any]
    several: bool
    parameters: Any


def body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises Wrong."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Wrong(None, "The request's body is not a JSON object.")
    return found


def read(told: Mapping[str, Any], item: Item, parameters: type[BaseModel], loose: bool = False) -> Request:
    """A request in Hugging Face's shape: `inputs`, one or a list, and `parameters`, with `loose` also beside them. `item`
    checks one input: (where it stands, what it is) -> what the task computes. Raises Wrong."""
    beside = tuple(parameters.model_fields) if loose else ()
    for name in told:
        if name not in (*FIELDS, *beside):
            raise Wrong(
                _short(name), f"Unknown field `{_short(name)}`{_meant(name, FIELDS)} Give `inputs` and `parameters`."
            )
    if told.get("inputs") is None:
        raise Wrong("inputs", "`inputs` is missing.")
    named = {name: told[name] for name in beside if name in told}
    inner = {} if told.get("parameters") is None else _object("parameters", told["parameters"])
    settings = section("parameters", parameters, {**named, **inner})
    given = told["inputs"]
    if not isinstance(given, list):
        return Request([item("inputs", given)], False, settings)
    count("inputs", given)
    return Request([item(f"inputs[{place}]", one) for place, one in enumerate(given)], True, settings)


def count(name: str, given: list[Any]) -> None:
    """Raise Wrong for a list of inputs that is empty or too long."""
    if not 0 < len(given) <= MAX_INPUTS:
        raise Wrong(name, f"`{name}` has {len(given)} items: give 1 to {MAX_INPUTS}.")


def section(name: str, kind: type[Kind], given: Any) -> Kind:
    """`given`, a JSON object, as a `kind`. Raises Wrong with the first thing that is wrong."""
    _object(name, given)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        place = f"{name}.{field}" if name and field else name or field
        if first["type"] == "extra_forbidden":
            known = tuple(kind.model_fields)
            raise Wrong(_short(place), f"Unknown field `{_short(place)}`{_meant(field, known)} Known are {', '.join(known)}.") from None  # fmt: skip
        raise Wrong(place, f"`{place}`: {first['msg'].removeprefix('Value error, ')}.") from None


def text(name: str, given: Any) -> str:
    """A text that is not blank. Raises Wrong."""
    if not isinstance(given, str):
        raise Wrong(name, f"`{name}` is not a text.")
    if not given.strip():
        raise Wrong(name, f"`{name}` is empty.")
    if not given.isascii():
        try:
            given.encode()
        except UnicodeEncodeError:
            raise Wrong(name, f"`{name}` holds half of a surrogate pair, which is no text.") from None
    return given


def cuts(truncation: Truncation | None) -> bool:
    """Whether what is too long is to be cut."""
    return truncation not in (None, False, "do_not_truncate")


def _object(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Wrong(name, f"`{name}` is not a JSON object.")
    return given


def _meant(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f", did you mean `{close[0]}`?" if close else "."


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}..."
