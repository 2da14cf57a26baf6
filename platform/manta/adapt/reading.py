"""Opens an adapter that a run left, beside the model it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_adapter(model: Any, folder: Path) -> Any:
    """`model` with the adapter of the PEFT directory `folder` beside its weights, not merged into them."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder))
