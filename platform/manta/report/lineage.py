"""An artifact's chain of origin as an indented tree, from the artifact back to the documents' hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def text(tree: Mapping[str, Any]) -> str:
    """Render the tree of `artifact.lineage`; each line: role, kind, name or reference, fingerprint, place.

    What several stages share is shown whole where it first stands, and named from then on.
    """
    return "\n".join(_lines(tree, "", 0, set()))


def _lines(tree: Mapping[str, Any], role: str, depth: int, seen: set[str]) -> Iterator[str]:
    lead = "  " * depth + (f"{role}: " if role and role != "documents" else "")
    fingerprint, inputs = str(tree.get("fingerprint", "?")), tree.get("inputs", {})
    if tree.get("kind") == "documents":
        yield f"{lead}documents  sha256 {tree['content']}"
        return
    shown = [str(tree.get("kind", "?")), str(tree.get("name") or tree.get("ref", "")), f"[{fingerprint[:12]}]"]
    if inputs and fingerprint in seen:
        yield lead + "  ".join([*shown, "(above)"])
        return
    seen.add(fingerprint)
    yield lead + "  ".join([*shown, str(tree.get("path", ""))]).rstrip()
    for name, entry in inputs.items():
        yield from _lines(entry, name, depth + 1, seen)
