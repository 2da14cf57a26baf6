"""Removes lines and paragraphs that many documents share: hashes are counted over all of them, then taken out of each."""

from __future__ import annotations

from collections.abc import Callable

from manta.storage import Folder


def remover(folder: Folder, path: str) -> Callable[[str], str]:
    """A function that takes the lines out of a text whose hashes `path` holds."""
    raise NotImplementedError
