"""What users bring: files of examples, read, split, doubted and shown before anything starts."""

from manta.tasks.examples.loading import SPLITS, Inputs, Loaded, check, choose, fields_of, load, read

__all__ = ["SPLITS", "Inputs", "Loaded", "check", "choose", "fields_of", "load", "read"]
