"""How a pretrained model is adapted: which weights move, and what is left afterwards. One function pair per method."""

from __future__ import annotations

from manta.adapt.methods import ADAPTERS, apply, describe, export

__all__ = ["ADAPTERS", "apply", "describe", "export"]
