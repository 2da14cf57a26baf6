"""What can go wrong, one class per exit code, each message naming the setting, the value and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_INPUT = 2
EXIT_FAILED = 3
EXIT_GATE = 4
EXIT_INTERRUPTED = 130


class MantaError(Exception):
    """A failure that Manta explains itself: printed as one message, without a traceback."""

    exit_code = EXIT_FAILED


class InputError(MantaError):
    """The recipe or an input is wrong; nothing was started."""

    exit_code = EXIT_INPUT


class StageFailed(MantaError):
    """A stage stopped half-way; what it finished is kept and `manta resume` carries on."""

    exit_code = EXIT_FAILED


class GateRefused(MantaError):
    """A finished model does not reach what the recipe's gate demands."""

    exit_code = EXIT_GATE


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: where, what stands there, what to do."""

    path: str
    value: object
    remedy: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {self.value!r}"
        return f"{self.path}{shown}: {self.remedy}"


class RecipeError(InputError):
    """Every problem of a recipe at once."""

    def __init__(self, origin: str, problems: Sequence[Problem]):
        self.origin = origin
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem" + ("" if len(self.problems) == 1 else "s")
        super().__init__(f"{origin}: {count}\n" + "\n".join(f"  {problem}" for problem in self.problems))
