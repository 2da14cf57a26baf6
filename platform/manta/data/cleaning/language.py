"""Which language a text is in, as CLD2 tells it."""

from __future__ import annotations

import re

from manta.data.cleaning.batch import Batch, Outcome
from manta.sections.prepare import LanguageId

# What CLD2 takes for broken UTF-8: controls but for tab, line end, form feed and return; half surrogate pairs;
# code points that are no characters.
UNACCEPTED = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
    + "]"
)
# Its names that are not ISO 639-1. Those that name a script alone (xx-...) or no language stay as they are: nobody
# can ask for them.
ISO = {"zh-Hant": "zh", "iw": "he", "jw": "jv", "sr-ME": "sr"}


def language(batch: Batch, settings: LanguageId) -> Outcome:
    """Drop what is not, or not enough of it, in the languages to keep; tell every document's language.

    A language that its source states is believed, whatever the text looks like.
    """
    told, reasons = [], []
    for text, stated in zip(batch.texts, batch.languages, strict=True):
        found, share = (stated, 1.0) if stated else identify(text)
        told.append(found)
        if not found:
            reasons.append("language.unknown" if settings.unknown == "drop" else None)
        else:
            wanted = found in settings.keep and share >= settings.min_share
            reasons.append(None if wanted else "language.keep")
    return Outcome(batch.texts, told, reasons)


def identify(text: str) -> tuple[str, float]:
    """The commonest language (ISO 639-1 where it has such a code) and its share of the text's bytes.

    "" and 0 where CLD2 calls its finding unreliable.
    """
    import pycld2

    reliable, _, found = pycld2.detect(UNACCEPTED.sub(" ", text).encode(), isPlainText=True)
    shares: dict[str, float] = {}
    for _name, code, percent, _score in found:
        if code != "un":
            shares[ISO.get(code, code)] = shares.get(ISO.get(code, code), 0.0) + percent / 100
    if not reliable or not shares:
        return "", 0.0
    top = max(shares, key=shares.__getitem__)
    return top, shares[top]
