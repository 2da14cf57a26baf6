"""Examples of a task that labels as rows, in their order; all that cannot be used are named at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from manta.errors import InputError
from manta.tasks import LABELLING
from manta.tasks.labels import Example, Labels, Row, Unusable

SHOWN = 8  # examples named in one message


def rows_of(
    settings: Any, some: Sequence[Example], tokenizer: Any, known: Labels, where: Callable[[Example], str]
) -> list[Row]:
    """The rows of examples, those of one side by side; `settings` are the task's.

    Raises InputError that says what is wrong with examples, each by `where` it stands.
    """
    task = LABELLING[settings.name]
    found: list[Row] = []
    bad = []
    for example in some:
        try:
            made = task.encode(example, tokenizer, settings, known)
            found += made if isinstance(made, list) else [made]
        except Unusable as told:
            bad.append(f"{where(example)} {told}")
    if bad:
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise InputError(
            f"data.examples: {len(bad)} of {len(some)} examples cannot be used:\n  " + "\n  ".join(bad[:SHOWN]) + more
        )
    return found
