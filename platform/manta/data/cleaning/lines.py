"""Rules on the lines of one document."""

from __future__ import annotations

from manta.data.cleaning.batch import Batch, Outcome, judged
from manta.sections.prepare import RepeatedLines


def repeated_lines(batch: Batch, settings: RepeatedLines) -> Outcome:
    """Drop texts of whose non-empty lines more than the share repeat an earlier one."""

    def judge(text: str) -> str | None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        repeated = (len(lines) - len(set(lines))) / len(lines) if lines else 0.0
        return "repeated_lines.max_fraction" if repeated > settings.max_fraction else None

    return judged(batch, map(judge, batch.texts))
