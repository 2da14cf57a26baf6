"""What a compressed model has from its source, file by file: tokenizer, chat template, generation settings and licence."""

from __future__ import annotations

import shutil
from pathlib import Path

# Whatever their names. Loading and saving them again would rewrite them.
ENDINGS = (".json", ".jinja", ".model", ".txt", ".tiktoken")


def copy(source: Path, target: Path) -> None:
    """Copy all but the weights and what describes them, config.json and an index, into the existing folder `target`."""
    for file in source.iterdir():
        beside = file.name.endswith(ENDINGS) and file.name != "config.json" and not file.name.endswith(".index.json")
        if file.is_file() and (beside or file.name.startswith("LICENSE")):
            shutil.copyfile(file, target / file.name)
