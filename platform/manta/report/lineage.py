"""An artifact's chain of origin as an indented tree, from the artifact back to the documents' hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(tree: Mapping[str, Any], role: str = "", depth: int = 0) -> str:
    """Render the tree of `artifact.lineage`; each line: role, kind, name or reference, fingerprint, place."""
    lead = "  " * depth + (f"{role}: " if role else "")
    name = tree.get("name") or tree.get("ref") or ""
    parts = [
        str(tree.get("kind", "?")),
        str(name),
        f"[{str(tree.get('fingerprint', '?'))[:12]}]",
        str(tree.get("path", "")),
    ]
    line = lead + "  ".join(part for part in parts if part)
    if tree.get("kind") == "documents":
        line = f"{lead}documents  sha256 {tree.get('content', tree.get('fingerprint'))}"
        if "count" in tree:
            line += f"  ({int(tree['count']):,} documents)"
    inputs = tree.get("inputs", {})
    return "\n".join([line, *(text(entry, name, depth + 1) for name, entry in inputs.items())])
