"""Cleaning rules as pure functions over batches of texts: first normalise, then keep or drop, each drop with a reason."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from manta.sections import Clean

# Keeping rules, in the order in which they are applied: a document is dropped under the first rule it breaks. The names
# are the fields of `sections.Clean` and the reasons in the manifest's figures.
Rule = Callable[[Sequence[str], float], list[bool]]


def unify(texts: Sequence[str], form: str) -> list[str]:
    """Unicode form (NFC, NFKC or none), line ends as \\n, no space at line ends, no empty lines around the text."""
    changed = texts if form == "none" else [unicodedata.normalize(form, text) for text in texts]  # type: ignore[arg-type]
    return ["\n".join(line.rstrip() for line in text.splitlines()).strip("\n") for text in changed]


def min_chars(texts: Sequence[str], limit: float) -> list[bool]:
    """Keep texts of at least `limit` characters."""
    return [len(text) >= limit for text in texts]


def max_chars(texts: Sequence[str], limit: float) -> list[bool]:
    """Keep texts of at most `limit` characters."""
    return [len(text) <= limit for text in texts]


def min_alpha_fraction(texts: Sequence[str], limit: float) -> list[bool]:
    """Keep texts whose letters (in any script) make up at least `limit` of the characters that are not space."""
    return [_fraction(sum(map(str.isalpha, text)), len("".join(text.split()))) >= limit for text in texts]


def max_repeated_line_fraction(texts: Sequence[str], limit: float) -> list[bool]:
    """Keep texts of whose non-empty lines at most `limit` repeat an earlier one."""
    return [_repeated_lines(text) <= limit for text in texts]


RULES: dict[str, Rule] = {
    "min_chars": min_chars,
    "max_chars": max_chars,
    "min_alpha_fraction": min_alpha_fraction,
    "max_repeated_line_fraction": max_repeated_line_fraction,
}


def clean(texts: Sequence[str], settings: Clean) -> tuple[list[str], list[str | None]]:
    """Apply everything to a batch. Returns the normalised texts and, for each, the rule it breaks or None."""
    unified = unify(texts, settings.unicode)
    reasons: list[str | None] = [None] * len(unified)
    for name, rule in RULES.items():
        standing = [i for i, reason in enumerate(reasons) if reason is None]
        kept = rule([unified[i] for i in standing], getattr(settings, name))
        for i, keep in zip(standing, kept, strict=True):
            if not keep:
                reasons[i] = name
    return unified, reasons


def _repeated_lines(text: str) -> float:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _fraction(len(lines) - len(set(lines)), len(lines))


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
