"""Examples out of text that people wrote and every installation has: the docstrings of Python's own library."""

from __future__ import annotations

import ast
import functools
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

Examples = list[dict[str, Any]]
PACKAGES = ("asyncio", "email", "importlib", "logging", "unittest")
LIBRARY = Path(ast.__file__).parent


class Text(NamedTuple):
    """A docstring: the package or module that it belongs to, its first paragraph as one line, and all of it."""

    home: str
    first: str
    whole: str


@functools.cache
def docstrings() -> tuple[Text, ...]:
    """Those of Python's library that are prose, each first paragraph once, in an order that mixes them."""
    found: dict[str, Text] = {}
    for home, _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                whole = ast.get_docstring(node) or ""
                first = " ".join(whole.partition("\n\n")[0].split())
                if re.match(r"[A-Z][a-z]+ .*[a-z]\.", first) and len(first) < 300:
                    found.setdefault(first, Text(home, first, whole))
    return tuple(mixed(list(found.values())))


class Source(NamedTuple):
    """A file of the library: its package or module, what it says, and what the parser makes of it."""

    home: str
    text: str
    tree: ast.Module


@functools.cache
def sources() -> tuple[Source, ...]:
    """The files of the packages, and the modules whose names begin with a to i."""
    files = [*LIBRARY.glob("[a-i]*.py"), *(file for name in PACKAGES for file in (LIBRARY / name).glob("*.py"))]
    texts = [(file.relative_to(LIBRARY).parts[0], file.read_text(encoding="utf-8")) for file in sorted(files)]
    return tuple(Source(home.removesuffix(".py"), text, ast.parse(text)) for home, text in texts)


def mixed(listed: list[Any]) -> list[Any]:
    """In another order, always the same."""
    return random.Random(0).sample(listed, len(listed))


def sides(examples: Examples, kept: int) -> tuple[Examples, Examples]:
    """What is trained on, and the last `kept` examples, which are not."""
    return examples[:-kept], examples[-kept:]


def homes() -> Examples:
    """Which of five packages a docstring's first paragraph is from."""
    return [{"text": text.first, "label": text.home} for text in docstrings() if text.home in PACKAGES]


def in_order() -> Examples:
    """Sentences as they were written, and the same words in another order."""
    found = []
    for number, text in enumerate(docstrings()):
        words = text.first.partition(". ")[0].removesuffix(".").split()
        other = random.Random(number).sample(words, len(words))
        if 5 <= len(words) <= 12 and other != words:
            found.append({"input": text.home, "chosen": " ".join(words), "rejected": " ".join(other)})
    return found


def names() -> Examples:
    """Words of docstrings without their capitals, and which of them had one although no sentence begins there."""
    found = []
    for text in docstrings():
        words = re.findall(r"\w+|[^\w\s]", text.whole)[:32]
        inside = [False, *(before not in ".:!?*" for before in words[:-1])]
        capital = [here and word[0].isupper() for word, here in zip(words, inside, strict=True)]
        tags = [
            "O" if not now else "I-NAME" if before else "B-NAME"
            for before, now in zip([False, *capital[:-1]], capital, strict=True)
        ]
        if any(capital):
            found.append({"tokens": [word.lower() for word in words], "tags": tags})
    return found


def identifiers() -> Examples:
    """Names of variables of several words, and the words."""
    every = {node.id for source in sources() for node in ast.walk(source.tree) if isinstance(node, ast.Name)}
    found = sorted(name for name in every if re.fullmatch(r"[a-z]+(_[a-z]+)+", name) and len(name) <= 24)
    return [{"input": name, "target": name.replace("_", " ")} for name in mixed(found)]


def leads() -> Examples:
    """Docstrings, and their first sentences."""
    return [
        {
            "input": " ".join(text.whole.split()),
            "target": text.first.partition(". ")[0].removesuffix(".") + ".",
        }
        for text in docstrings()
    ]


def talks() -> Examples:
    """Conversations of two exchanges: a first paragraph, and the package that it is from."""
    found = homes()
    return [
        {
            "messages": [
                {"role": role, "content": content}
                for each in found[first : first + 2]
                for role, content in (("user", each["text"]), ("assistant", each["label"]))
            ]
        }
        for first in range(0, len(found) - 1, 2)
    ]
