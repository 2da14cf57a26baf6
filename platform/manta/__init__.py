"""Manta: raw text in, a served language model out, on Ray."""

__version__ = "0.1.0"
