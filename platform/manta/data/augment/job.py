"""One variant to make, what came of it, and the chance that both the choice and the variant depend on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

SEEDS = 1 << 31  # below it: what endpoints and torch alike take


@dataclass(frozen=True)
class Job:
    """A document of which a variant is wanted. `entropy` is its own: equal jobs have the same luck anywhere."""

    document: int  # index into the unit's texts
    number: int  # of the variant, among those of its kind
    text: str
    language: str  # ISO 639-1, "" where nobody has told
    entropy: bytes  # 16


class Made(NamedTuple):
    """A text, or the reason why there is none."""

    text: str
    fault: str = ""


# Makes a variant for each job of a unit, in order, under the settings that stand at a place of the recipe.
Family = Callable[[Sequence[Job], Any, str], Iterator[Made]]


def entropy(seed: int, digest: bytes, kind: str, number: int) -> bytes:
    return hashlib.blake2b(f"{seed} {kind} {number} ".encode() + digest, digest_size=16).digest()


def is_chosen(seed: int, digest: bytes, kind: str, number: int, share: float) -> bool:
    """Whether a document is among the share that gets the variants of a kind from `number` on."""
    hashed = hashlib.blake2b(f"share {seed} {kind} {number} ".encode() + digest, digest_size=8).digest()
    return int.from_bytes(hashed, "little") < share * 2.0**64


def derived(parent: bytes, name: str) -> bytes:
    """Entropy for a part of a job."""
    return hashlib.blake2b(name.encode() + b" " + parent, digest_size=16).digest()


def as_seed(source: bytes) -> int:
    return int.from_bytes(source, "little") % SEEDS


def one_by_one(change: Callable[[Job, Any, Any, str], str]) -> Family:
    """The family of a function that looks at one document: change(job, settings, generator, where) -> text."""

    @functools.wraps(change)
    def family(jobs: Sequence[Job], settings: Any, where: str) -> Iterator[Made]:
        import numpy as np

        for job in jobs:
            generator = np.random.default_rng(int.from_bytes(job.entropy, "little"))
            yield Made(change(job, settings, generator, where))

    return family


def picked(generator: Any, count: int, wanted: int) -> list[int]:
    """`wanted` of the indices below `count` (all, if there are no more), each once, in ascending order."""
    return sorted(generator.choice(count, min(wanted, count), replace=False, shuffle=False).tolist()) if count else []


def portion(rate: float, count: int) -> int:
    """How many of `count` a rate means: at least one, as in EDA, so that short texts change too."""
    return max(1, round(rate * count)) if rate and count else 0
