"""Labelled examples: read from a prepared artifact or from one JSONL or Parquet file, every bad line named by number."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from manta.errors import InputError
from manta.storage import Folder
from manta.tasks.conversation import Example

ROLES = ("system", "user", "assistant")
SPLITS = ("train", "validation")
SHOWN = 8  # bad lines named in one message


def read(path: str, split: str, validation_fraction: float = 0.05) -> list[dict[str, Any]]:
    """The examples of `split` ("train" or "validation"), in the order they are stored.

    `path` is a prepared artifact's folder, which holds both splits, or one .jsonl or .parquet file, which is split by
    the hash of what is asked: the same question never stands on both sides. Each example is {"input", "target"} or
    {"messages"}. Raises InputError that names the bad lines.
    """
    place = Folder(path)
    if not place.is_file():
        return _parquet(_artifact_file(place, split))
    listed = _file(place)
    return [example for example in listed if _split_of(example, validation_fraction) == split]


def check(path: str, task: str, validation_fraction: float) -> None:
    """Raise InputError unless both splits of `path` hold examples that the task can use."""
    place = Folder(path)
    if not place.is_file():
        for split in SPLITS:
            _artifact_file(place, split)
        return
    listed = _file(place)
    if task != "chat" and any("messages" in example for example in listed):
        raise InputError(
            f"data.examples: {place.url} holds conversations (messages), but task.name = {task!r} learns from input and target: "
            "set task.name=chat, or give those two fields"
        )
    counts = {split: sum(_split_of(example, validation_fraction) == split for example in listed) for split in SPLITS}
    if not all(counts.values()):
        raise InputError(
            f"data.examples: {place.url} holds {len(listed)} examples, and data.validation_fraction = {validation_fraction} leaves "
            f"{counts['train']} to train on and {counts['validation']} to validate with: both must be above 0"
        )


def choose(examples: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` examples, in their order. Chosen by hash, so that a larger limit keeps what a smaller one chose."""
    if limit is None or limit >= len(examples):
        return examples
    ranked = sorted(range(len(examples)), key=lambda position: (_hash(examples[position]), position))
    return [examples[position] for position in sorted(ranked[:limit])]


def _artifact_file(place: Folder, split: str) -> Folder:
    name = f"examples/{split}.parquet"
    if not place.exists(name):
        raise InputError(
            f"data.examples: {place.url} has no {name}: prepare it with data.examples=docstring_summary, "
            "or name a .jsonl or .parquet file of your own"
        )
    return place / name


def _file(place: Folder) -> list[dict[str, Any]]:
    if place.url.endswith(".parquet"):
        return _parquet(place)
    if place.url.endswith((".jsonl", ".json")):
        return _collect(place, _json_lines(place))
    raise InputError(f"data.examples: {place.url} is neither .jsonl nor .parquet: convert it to one of them")


def _read_bytes(place: Folder) -> bytes:
    from fsspec.core import open as open_url

    with open_url(place.url, "rb") as handle:
        return bytes(handle.read())


def _parquet(place: Folder) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(io.BytesIO(_read_bytes(place))) as file:
            columns = [name for name in ("messages", "input", "target") if name in file.schema_arrow.names]
            if "messages" not in columns and len(columns) < 2:
                found = ", ".join(file.schema_arrow.names)
                raise InputError(
                    f"data.examples: {place.url} has the columns {found}: name them input and target, or messages"
                )
            rows = file.read(columns=columns[:1] if "messages" in columns else columns).to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"data.examples: {place.url} cannot be read as Parquet ({error}): write it again") from None
    return _collect(place, (("row", number, row) for number, row in enumerate(rows, 1)))


def _json_lines(place: Folder) -> Iterator[tuple[str, int, Any]]:
    for number, line in enumerate(_read_bytes(place).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield "line", number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield "line", number, f"is not UTF-8 (byte {error.start + 1})"
        except json.JSONDecodeError as error:
            yield "line", number, f"is not JSON ({error.msg} at column {error.colno})"


def _collect(place: Folder, records: Iterable[tuple[str, int, Any]]) -> list[dict[str, Any]]:
    """The records as examples; a record that is a text is the complaint about it. Raises InputError for all bad ones."""
    good: list[dict[str, Any]] = []
    bad: list[str] = []
    for word, number, record in records:
        complaint = record if isinstance(record, str) else _complaint(record)
        if complaint:
            bad.append(f"{word} {number} {complaint}")
        elif "messages" in record:
            good.append({"messages": [{"role": m["role"], "content": m["content"]} for m in record["messages"]]})
        else:
            good.append({"input": record["input"], "target": record["target"]})
    if bad:
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listed = "\n  ".join(bad[:SHOWN])
        raise InputError(
            f"data.examples: {place.url} has {len(bad)} bad of {len(bad) + len(good)}; mend or delete them:\n  {listed}{more}"
        )
    if not good:
        raise InputError(f"data.examples: {place.url} holds no examples")
    return good


def _complaint(record: Any) -> str | None:
    """What is wrong with one record, or None."""
    if not isinstance(record, dict):
        return f"is not an object but {type(record).__name__}"
    if record.get("messages") is None:
        for key in ("input", "target"):
            if key not in record:
                return f"has no {key!r} (it has {', '.join(map(repr, record)) or 'nothing'})"
            if not isinstance(record[key], str) or not record[key].strip():
                return f"has an {key!r} that is " + (
                    "empty" if isinstance(record[key], str) else f"no text but {record[key]!r}"
                )
        return None
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        return "has 'messages' that are not a list of {role, content}"
    for position, message in enumerate(messages, 1):
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("content"), str)
            or not message["content"].strip()
        ):
            return f"has a message {position} without text in 'content'"
        if message.get("role") not in ROLES:
            return f"has a message {position} of role {message.get('role')!r}: choose one of {', '.join(ROLES)}"
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or turns != ["user" if position % 2 == 0 else "assistant" for position in range(len(turns))]:
        return f"has roles that do not take turns from the user's question on ({', '.join(roles)})"
    return None if turns[-1] == "assistant" else "does not end with the assistant's answer"


def _split_of(example: Example, validation_fraction: float) -> str:
    share = int(_hash(_asked(example))[:15], 16) / 16**15
    return "validation" if share < validation_fraction else "train"


def _asked(example: Example) -> Any:
    """What an example asks: its input, or its messages up to the first answer."""
    if "input" in example:
        return example["input"]
    roles = [message["role"] for message in example["messages"]]
    return example["messages"][: roles.index("assistant")]


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
