"""Reads what Python packages say of themselves: the docstrings of their files, and their READMEs."""

from __future__ import annotations

import ast
import email
import inspect
import io
import warnings
from collections.abc import Iterator

from manta.data.formats.found import Found, Unreadable
from manta.data.sources import File
from manta.sections.prepare import Source


def docstrings(handle: io.BufferedReader, file: File, _source: Source) -> Iterator[Found]:
    """The docstrings of one Python file as one Markdown document; the file is parsed, never imported.

    Each docstring stands, dedented, under a heading that names its module, class or function with its signature.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the files' own invalid escapes
            tree = ast.parse(handle.read())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield Unreadable(file.id, 0, f"not Python: {getattr(error, 'msg', None) or error}")
        return
    module = file.relative.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    sections = [f"{heading}\n\n{body}" for heading, body in _sections(tree, module)]
    if sections:
        yield file.id, "\n\n".join(sections)


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _sections(node: ast.Module | Definition, name: str) -> Iterator[tuple[str, str]]:
    """(heading, docstring) of a module, class or function and of all defined in it, in the file's order."""
    body = ast.get_docstring(node, clean=False)
    if body and (body := inspect.cleandoc(body).strip()) and _encodable(body):
        yield heading(node, name), body
    stack: list[ast.AST] = [*reversed(node.body)]
    while stack:
        inner = stack.pop()
        if isinstance(inner, Definition):
            yield from _sections(inner, f"{name}.{inner.name}")
        else:  # definitions also stand inside if, try, with
            stack.extend(reversed([*ast.iter_child_nodes(inner)]))


def heading(node: ast.Module | Definition, name: str) -> str:
    """`## `def json.dumps(obj, *, indent=None)``: Markdown, with the definition as the source has it, on one line."""
    if isinstance(node, ast.Module):
        return f"# `{name}`"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        signature = f"class {name}({bases})" if bases else f"class {name}"
    else:
        word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        signature = f"{word} {name}({ast.unparse(node.args)}){returns}"
    return f"## `{' '.join(signature.split())}`"


def _encodable(body: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in body)


def package_metadata(handle: io.BufferedReader, file: File, _source: Source) -> Iterator[Found]:
    """The README of an installed package: the description in its *.dist-info/METADATA."""
    try:
        message = email.message_from_string(handle.read().decode())
    except UnicodeDecodeError as error:
        yield Unreadable(file.id, error.start, "not UTF-8")
        return
    body = message.get_payload()
    described = body if isinstance(body, str) and body.strip() else message.get("Description", "")
    if described.strip() not in ("", "UNKNOWN"):
        yield file.id, described
