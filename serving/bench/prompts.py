"""What the requests say: texts of a wanted length that no two requests share, or the user's own."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from manta.errors import InputError

WORDS = (  # of one language, common, none twice
    "river stone light paper garden winter music number window letter market summer engine forest silver morning bridge "
    "island candle kitchen mountain pocket signal station theory village weather circle copper flower harbour "
    "journey kettle ladder mirror needle orange pencil quarter ribbon shadow ticket useful valley wooden yellow anchor "
    "basket cradle danger effort figure gentle handle insect jacket"
)
SHORT, LONG = 16, 80  # words of the two prompts that show how many tokens a word has here


def words(count: int, seed: int, number: int) -> str:
    """`count` random words, the same for the same seed and number: no two prompts begin alike, so no cache helps."""
    draw = random.Random(f"{seed}/{number}")
    return " ".join(draw.choices(WORDS.split(), k=count))


async def generated(wanted: int, requests: int, seed: int, count_tokens: Callable[[str], Awaitable[int]]) -> list[str]:
    """Prompts of about `wanted` tokens, whatever the endpoint's tokenizer and chat template: it is asked for two lengths.

    Raises InputError where the template alone is longer.
    """
    short = await count_tokens(words(SHORT, seed, -1))
    long = await count_tokens(words(LONG, seed, -2))
    each = max(1, long - short) / (LONG - SHORT)
    around = short - SHORT * each
    length = round((wanted - around) / each)
    if length < 1:
        raise InputError(
            f"--prompt-tokens = {wanted}: the endpoint's chat template takes about {around:.0f} by itself: ask for more"
        )
    return [words(length, seed, number) for number in range(requests)]


def from_file(file: str, requests: int, api: str) -> list[Any]:
    """`requests` prompts of a file, in its order, from the start again when it ends.

    Lines of text, or of JSON (.jsonl) with `prompt` (text) or, for the chat, `messages`. Raises InputError.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts = {file!r} cannot be read ({error}): write one prompt a line into it") from error
    found = [
        _prompt(line, file, number, api) if file.endswith(".jsonl") else line
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise InputError(f"--prompts = {file!r} holds no prompt: write one a line into it")
    return [found[number % len(found)] for number in range(requests)]


def _prompt(line: str, file: str, number: int, api: str) -> Any:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"--prompts = {file!r}: line {number} is not JSON ({error})") from error
    names = ("prompt", "messages") if api == "chat" else ("prompt",)
    given = [record[name] for name in names if isinstance(record, dict) and record.get(name)]
    if len(given) != 1:
        raise InputError(f"--prompts = {file!r}: line {number} needs one of {', '.join(names)} for --api {api}")
    return given[0]
