"""Augmentation: variants of documents, each a pure function of its document, the settings and the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manta.data import dedup
from manta.data.augment import characters, concatenate, synonyms, wordnet, words, writing
from manta.data.augment.contradictions import problems
from manta.data.augment.job import Family, Job, entropy, is_chosen
from manta.data.cleaning.language import identify
from manta.sections.augment import Augmentation, Concatenate, Synonyms

__all__ = ["FAMILIES", "Variant", "problems", "variants"]

# The `augment` of a recipe's settings -> what makes its variants.
FAMILIES: dict[str, Family] = {
    "characters": characters.characters,
    "synonyms": synonyms.synonyms,
    "words": words.words,
    "concatenate": concatenate.concatenate,
    "rewrite": writing.rewrite,
    "back_translate": writing.back_translate,
}


def inventory(augmentations: Sequence[Augmentation]) -> str:
    """What variants depend on that no recipe names: the version of WordNet where it is used, else ""."""
    used = any(isinstance(settings, Synonyms) and settings.path is None for settings in augmentations)
    return wordnet.inventory() if used else ""


@dataclass(frozen=True)
class Variant:
    """A text made of `document` (index into the unit's texts), the `number`th of its `kind`."""

    document: int
    kind: str
    number: int
    text: str


def variants(
    texts: Sequence[str],
    languages: Sequence[str],
    digests: Sequence[bytes],
    augmentations: Sequence[Augmentation],
    seed: int,
    left_out: Counter[str] | None = None,
) -> Iterator[Variant]:
    """The variants of a unit of documents: augmentation by augmentation, copy by copy, in the documents' order.

    `languages`: ISO 639-1, "" where nobody has told; `digests`: those of `dedup.digest` (16 bytes). Which documents are
    chosen and what becomes of them depends on (seed, digest, kind, number) alone, so it is the same whatever documents
    stand beside them, but for `concatenate`, which looks at the order of the documents in the unit. A second
    augmentation of a kind goes on counting where the first ends: (document, kind, number) is unique.

    Variants that equal their document or an earlier variant of it, white space aside, are left out (`unchanged`), so
    are those a model failed at. `left_out` counts these as `kind.reason`. Raises InputError, and StageFailed when an
    endpoint does not answer.
    """
    told = list(languages)
    seen: set[tuple[int, bytes]] = set()
    begun: Counter[str] = Counter()
    for place, settings in enumerate(augmentations):
        kind, first = settings.augment, begun[settings.augment]
        begun[kind] += settings.copies
        chosen = [i for i, digest in enumerate(digests) if is_chosen(seed, digest, kind, first, settings.share)]
        wanted = _languages(settings)
        if wanted or isinstance(settings, Concatenate):
            for i in chosen:
                told[i] = told[i] or identify(texts[i])[0]
            chosen = [i for i in chosen if not wanted or told[i] in wanted]
        for number in range(first, first + settings.copies):
            jobs = [Job(i, number, texts[i], told[i], entropy(seed, digests[i], kind, number)) for i in chosen]
            for job, made in zip(jobs, FAMILIES[kind](jobs, settings, f"data.augment.{place}"), strict=True):
                same = made.fault or dedup.digest(made.text)
                if isinstance(same, bytes) and same != digests[job.document] and (job.document, same) not in seen:
                    seen.add((job.document, same))
                    yield Variant(job.document, kind, number, made.text)
                elif left_out is not None:
                    left_out[f"{kind}.{made.fault or 'unchanged'}"] += 1


def _languages(settings: Augmentation) -> list[str]:
    """The languages an augmentation is for; none: all. WordNet is English."""
    if isinstance(settings, Synonyms) and settings.path is None:
        return ["en"] if not settings.languages or "en" in settings.languages else ["none"]
    return settings.languages
