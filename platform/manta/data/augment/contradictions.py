"""What is wrong with a recipe's augmentations, seen from the recipe and the environment alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from manta.data.augment import wordnet
from manta.errors import Problem
from manta.sections.augment import Augmentation, BackTranslate, Rewrite, Synonyms, Words, Writer


def problems(augmentations: Sequence[Augmentation]) -> Iterator[Problem]:
    """Settings that contradict each other or lack what they need, with paths below data.augment."""
    for number, settings in enumerate(augmentations):
        where = f"data.augment.{number}"
        if isinstance(settings, Words) and not settings.swap and not settings.delete:
            yield Problem(f"{where}.swap", settings.swap, "nothing changes, delete = 0 too: raise one of them")
        if isinstance(settings, Synonyms) and settings.path is None:
            yield from _wordnet(settings, where)
        writers = _writers(settings, where)
        for place, writer in writers.items():
            yield from _writer(writer, place)
        if writers and settings.copies > 1 and not any(writer.temperature for writer in writers.values()):
            yield Problem(
                f"{where}.copies",
                settings.copies,
                "greedy answers (temperature = 0) are all the same: raise temperature",
            )


def _writers(settings: Augmentation, where: str) -> dict[str, Writer]:
    if isinstance(settings, BackTranslate):
        return {f"{where}.there": settings.there, f"{where}.back": settings.back}
    return {where: settings} if isinstance(settings, Rewrite) else {}


def _wordnet(settings: Synonyms, where: str) -> Iterator[Problem]:
    if settings.languages and "en" not in settings.languages:
        yield Problem(
            f"{where}.path", None, f"WordNet is English: name a dictionary for {', '.join(settings.languages)}"
        )
    elif wordnet.folder() is None:
        yield Problem(f"{where}.path", None, wordnet.MISSING)


def _writer(writer: Writer, where: str) -> Iterator[Problem]:
    if writer.model is None and writer.endpoint is None:
        yield Problem(f"{where}.model", None, "nobody is there to write: name a model, or an endpoint")
    if writer.model is not None and writer.endpoint is not None:
        yield Problem(f"{where}.model", writer.model, "an endpoint is named too: leave one of the two out")
    if "{text}" not in writer.prompt:
        yield Problem(
            f"{where}.prompt", writer.prompt, "the document has no place in it: write {text} where it belongs"
        )
    key = writer.endpoint.api_key_env if writer.endpoint is not None else None
    if key is not None and not os.environ.get(key):
        yield Problem(f"{where}.endpoint.api_key_env", key, "this environment variable is not set: export the key")
