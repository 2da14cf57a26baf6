"""Texts written anew by a model: a document goes there in pieces, under a prompt, and comes back whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from manta.data.augment import endpoint, model, pieces
from manta.data.augment.job import Job, Made, as_seed, derived
from manta.sections.augment import BackTranslate, Rewrite, Writer


class Ask(NamedTuple):
    """One question to a model, with the seed of its sampling."""

    prompt: str
    seed: int


Answers = Callable[[Iterator[Ask], Any, str], Iterator[Made]]


def rewrite(jobs: Sequence[Job], settings: Rewrite, where: str) -> Iterator[Made]:
    """Each document as the model writes it under the prompt."""
    return written([(job.text, job.entropy) for job in jobs], settings, where)


def back_translate(jobs: Sequence[Job], settings: BackTranslate, where: str) -> Iterator[Made]:
    """Each document there and back. All go there first, so that one model at a time is at work."""
    there = list(written([(job.text, derived(job.entropy, "there")) for job in jobs], settings.there, f"{where}.there"))
    arrived = [(made.text, job.entropy) for job, made in zip(jobs, there, strict=True) if not made.fault]
    back = written(arrived, settings.back, f"{where}.back")
    for made in there:
        yield made if made.fault else next(back)


def written(texts: Sequence[tuple[str, bytes]], writer: Writer, where: str) -> Iterator[Made]:
    """What the writer makes of each (text, entropy), in order; the fault of the first piece that has one.

    Faults: `cut_off` (the answer did not end in max_new_tokens), `empty`, `too_long` (the model does not take so much),
    `refused` (the endpoint's filter). White space around and between pieces stays as it was.
    """
    cuts = [pieces.cut(text, writer.piece_chars) for text, _ in texts]
    answers: Answers = endpoint.answers if writer.endpoint is not None else model.answers
    given = answers(_asks(texts, cuts, writer.prompt), writer, where)
    for cut in cuts:
        got = [(piece, next(given) if piece.core else Made("")) for piece in cut]
        fault = next((made.fault for _, made in got if made.fault), "")
        yield Made("", fault) if fault else Made("".join(p.before + made.text + p.after for p, made in got))


def _asks(texts: Sequence[tuple[str, bytes]], cuts: list[list[pieces.Piece]], prompt: str) -> Iterator[Ask]:
    for (_, entropy), cut in zip(texts, cuts, strict=True):
        for number, piece in enumerate(cut):
            if piece.core:
                yield Ask(prompt.replace("{text}", piece.core), as_seed(derived(entropy, f"piece {number}")))
