"""What may be done to a model: each part reads a Hugging Face directory and writes another, so that they follow each other freely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.compress import dynamic, quantise
from manta.sections.base import Section

if TYPE_CHECKING:
    import numpy as np

Report = Callable[[int, int], None]  # called with (blocks done, blocks)


class Part(NamedTuple):
    """`describe(settings)` is a few words for people. `apply(source, target, settings, rows, report)` reads the directory
    `source`, fills the existing, empty folder `target` and returns its figures; `rows` is (samples, seq_len) int32, or None
    for settings that look at no data. The same rows and number of threads give the same bytes.
    """

    describe: Callable[[Any], str]
    apply: Callable[[Path, Path, Any, np.ndarray | None, Report], dict[str, Any]]


# section of `compress` -> what it does
PARTS: dict[str, Part] = {
    "quantise": Part(quantise.describe, quantise.apply),
    "dynamic": Part(dynamic.describe, dynamic.apply),
}


def describe(parts: dict[str, Section]) -> str:
    """What is about to be done, in the order in which it is done."""
    return ", then ".join(PARTS[name].describe(settings) for name, settings in parts.items())
