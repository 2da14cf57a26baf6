"""What may be done to a model: each part reads a Hugging Face directory and writes another, so that they follow each other freely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.compress import dynamic, prune, quantise, vocabulary
from manta.sections.base import Section
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

Report = Callable[[int, int], None]  # called with (blocks done, blocks)


class Part(NamedTuple):
    """`describe(settings)` is a few words for people. `apply(source, target, settings, rows, report)` reads the directory
    `source`, fills the existing, empty folder `target` and returns its figures; `rows` is (samples, seq_len) int32, or None
    for settings that look at no data. The same rows and number of threads give the same bytes.

    `check(settings, config, folder)` raises InputError for a model, its config.json and its Hugging Face directory, to
    which this cannot be done. `look(shards)` gives what `apply` gets as its rows, in place of the calibration rows.
    """

    describe: Callable[[Any], str]
    apply: Callable[[Path, Path, Any, np.ndarray | None, Report], dict[str, Any]]
    check: Callable[[Any, Mapping[str, Any], Folder], None] | None = None
    look: Callable[[Folder], np.ndarray] | None = None


# section of `compress` -> what it does
PARTS: dict[str, Part] = {
    "vocabulary": Part(vocabulary.describe, vocabulary.apply, vocabulary.check, vocabulary.look),
    "prune": Part(prune.describe, prune.apply, prune.check),
    "quantise": Part(quantise.describe, quantise.apply),
    "dynamic": Part(dynamic.describe, dynamic.apply),
}


def describe(parts: dict[str, Section]) -> str:
    """What is about to be done, in the order in which it is done."""
    return ", then ".join(PARTS[name].describe(settings) for name, settings in parts.items())


def check(parts: dict[str, Section], config: Mapping[str, Any], folder: Folder) -> None:
    """Raise InputError if one of the parts cannot be done to the model in the Hugging Face directory `folder`."""
    for name, settings in parts.items():
        refuse = PARTS[name].check
        if refuse is not None:
            refuse(settings, config, folder)
