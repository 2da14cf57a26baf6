"""How documents become rows: one file a layout, each a pure function of texts, tokenizer and settings."""

from __future__ import annotations

from manta.data.layouts import best_fit, concat, denoising, sentence_pairs
from manta.data.layouts.rows import Documents, Lay, Rows

__all__ = ["LAYOUTS", "Documents", "Rows"]

LAYOUTS: dict[str, Lay] = {
    "concat": concat.lay,
    "best_fit": best_fit.lay,
    "sentence_pairs": sentence_pairs.lay,
    "denoising": denoising.lay,
}
