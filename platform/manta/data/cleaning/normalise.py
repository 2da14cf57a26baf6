"""One form for every text: Unicode form, line ends, spaces; mojibake repaired and invisible characters removed."""

from __future__ import annotations

import re
import unicodedata

from manta.data.cleaning.batch import Batch, Outcome, changed
from manta.sections.prepare import Normalise

# C0 and C1 controls but for tab and line ends, soft hyphen, zero-width space and no-break space, byte-order mark,
# directional marks and isolates. Zero-width joiner and non-joiner stay: several scripts are misspelt without them.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)


def normalise(batch: Batch, settings: Normalise) -> Outcome:
    """Repair, remove what is invisible, then unify form and white space. Applying it twice changes nothing more."""
    texts = batch.texts
    if settings.repair:
        import ftfy

        # No more than wrong decodings: full-width commas are the commas of Chinese, and entities are markup.
        repair = ftfy.TextFixerConfig(
            normalization=None,
            uncurl_quotes=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            unescape_html=False,
        )
        texts = [ftfy.fix_text(text, repair) for text in texts]
    if settings.control:
        texts = [INVISIBLE.sub("", text) for text in texts]
    return changed(batch, [unify(text, settings.unicode) for text in texts])


def unify(text: str, form: str) -> str:
    """Unicode form (NFC, NFKC or none), line ends as \\n, no space at line ends, no empty lines around the text."""
    if form != "none":
        text = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
