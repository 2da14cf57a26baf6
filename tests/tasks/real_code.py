"""Examples out of the code of Python's own library: what names are to each other, and questions about functions."""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.tasks import real_text

LINES, LONGEST = 2, 100  # of code in a text: lines, characters
EACH = 25  # examples of a label in one source
Place = tuple[int, int, str]  # line, column, what stands there
ASKED = {"defined": "what is defined ?", "taken": "what does it take ?", "returned": "what is returned ?"}


def relations() -> list[list[dict[str, Any]]]:
    """For each source what names in it are to each other, as the parser says: base, default, parameter, imported, none."""
    ascii_ones = [source for source in real_text.sources() if source.text.isascii()]  # the parser counts bytes
    return [list(_few_of_each(_relations(source))) for source in real_text.mixed(ascii_ones)]


def _few_of_each(examples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Parameters are everywhere."""
    seen: Counter[str] = Counter()
    for example in examples:
        seen[example["label"]] += 1
        if seen[example["label"]] <= EACH:
            yield example


def _relations(source: real_text.Source) -> Iterator[dict[str, Any]]:
    lines = source.text.splitlines(keepends=True)
    for node in ast.walk(source.tree):
        for label, head, tail in _pairs(node):
            first = node.lineno - 1  # type: ignore[attr-defined]
            text = "".join(lines[first : first + LINES])
            spans = [_span(place, first, lines) for place in (head, tail)]
            if len(text) <= LONGEST and all(0 <= start < end <= len(text) for start, end in spans):
                yield {"text": text, "head": spans[0], "tail": spans[1], "label": label}


def _pairs(node: ast.AST) -> Iterator[tuple[str, Place, Place]]:
    if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
        name, base = (node.lineno, node.col_offset + 6, node.name), _at(node.bases[0], node.bases[0].id)
        yield "base", base, name
        yield "none", name, base
    elif isinstance(node, ast.FunctionDef) and node.args.args:
        name, arguments = (node.lineno, node.col_offset + 4, node.name), node.args.args
        yield "parameter", _at(arguments[-1], arguments[-1].arg), name
        if node.args.defaults and isinstance(node.args.defaults[-1], ast.Constant):
            default = _at(node.args.defaults[-1], ast.unparse(node.args.defaults[-1]))
            yield "default", default, _at(arguments[-1], arguments[-1].arg)
            yield "none", default, name
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level and node.names[0].name != "*":
        module = (node.lineno, node.col_offset + 5, node.module)
        yield "imported", _at(node.names[0], node.names[0].name), module


def _at(node: Any, text: str) -> Place:
    return node.lineno, node.col_offset, text


def _span(place: Place, first: int, lines: list[str]) -> list[int]:
    line, column, text = place
    start = sum(map(len, lines[first : line - 1])) + column
    return [start, start + len(text)] if lines[line - 1].startswith(text, column) else [-1, -1]


def questions() -> list[list[dict[str, Any]]]:
    """For each short function what it defines, takes first (beside self) and returns."""
    found: dict[str, list[dict[str, Any]]] = {}
    for source in real_text.sources():
        lines = source.text.splitlines(keepends=True)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef):
                text = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno])).strip()
                if len(text) <= LONGEST:
                    found.setdefault(text, list(_questions(text, node)))
    return real_text.mixed([asked for asked in found.values() if asked])


def _questions(text: str, node: ast.FunctionDef) -> Iterator[dict[str, Any]]:
    taken = [each.arg for each in node.args.args if each.arg not in ("self", "cls")]
    last = node.body[-1]
    returned = ast.unparse(last.value) if isinstance(last, ast.Return) and last.value is not None else ""
    head = text.find(f"def {node.name}(")
    for kind, start, answer in (
        ("defined", head + 4, node.name),
        ("taken", text.find(taken[0], text.find("(", head)) if taken else -1, taken[0] if taken else ""),
        ("returned", text.rfind(f"return {returned}") + 7, returned),
    ):
        if any(map(str.isalpha, answer)) and start > 0 and text.startswith(answer, start):
            yield {"question": ASKED[kind], "context": text, "answers": [{"text": answer, "start": start}]}
