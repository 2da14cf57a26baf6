"""Personal data: found by its form, checked by its check digits or ranges, replaced by a name for its kind."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from manta.data.cleaning.batch import Batch, Outcome
from manta.sections.prepare import Pii

# Length of an IBAN by country, from the registry of SWIFT.
_LENGTHS = (
    "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 DO:28 EE:20 "
    "EG:29 ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 "
    "KW:30 KZ:20 LB:28 LI:21 LT:20 LU:20 LV:21 MC:27 MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 NL:18 NO:15 PK:24 PL:28 PS:29 "
    "PT:25 QA:29 RO:24 RS:22 SA:24 SE:24 SI:19 SK:24 SM:27 TN:24 TR:26 UA:29 VA:22 XK:20"
)
IBAN_LENGTHS = {pair[:2]: int(pair[3:]) for pair in _LENGTHS.split()}
# Issuers of cards: Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay.
CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|65\d\d|64[4-9]\d|35(?:2[89]|[3-8]\d))\d{12}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14,17}"
)
# Provinces in an identity number of the People's Republic.
_PROVINCES = "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83"
PROVINCES = frozenset(_PROVINCES.split())
# Calling codes: the first digits tell how long each is.
CALLING = (
    r"(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|(?:2[1-689]|3[578]|42|5[09]|6[7-9]|8[0578]|9[679])\d)"
)
NOT_DOMAINS = ("png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css")  # logo@2x.png


@dataclass(frozen=True)
class Kind:
    """A form, and how a match is cut to the data in it: its length in characters, 0 where it is none after all."""

    pattern: re.Pattern[str]
    length: Callable[[str], int]
    sign: str = ""  # a text without this character holds none


def pii(batch: Batch, settings: Pii) -> Outcome:
    """Replace each find by <kind>, or drop the document under the first kind found.

    email: a local part and a domain with a top-level name. ip: IPv4 and IPv6 of public ranges; private, local and
    documentation addresses identify nobody and stay, as do versions such as v1.2.3.4 or Chrome/120.0.0.0. phone: with a
    country code, Chinese mobile and area-code numbers, North American numbers with separators. card: an issuer's
    prefix, its length and Luhn's check digit. iban: the country's length and ISO 7064 mod 97-10. cn_id: province,
    date of birth and ISO 7064 mod 11-2.
    """
    chosen = [(name, kind) for name, kind in KINDS.items() if name in settings.kinds]
    texts: list[str] = []
    reasons: list[str | None] = []
    for text in batch.texts:
        hit = None
        for name, kind in chosen:
            cleaned = replaced(text, name, kind)
            if settings.action == "replace":
                text = cleaned
            elif hit is None and cleaned != text:
                hit = f"pii.{name}"
        texts.append(text)
        reasons.append(hit)
    return Outcome(texts, batch.languages, reasons)


def replaced(text: str, name: str, kind: Kind) -> str:
    """The text with <name> in place of everything of the kind."""
    if kind.sign not in text:
        return text
    pieces, at, look = [], 0, 0
    while match := kind.pattern.search(text, look):
        if length := kind.length(match.group()):
            pieces += [text[at : match.start()], f"<{name}>"]
            at = look = match.start() + length
        else:  # its second half may be the first of a true one
            look = match.start() + 1
    return "".join([*pieces, text[at:]])


# --- checks ----------------------------------------------------------------------------------------------------------


def _digits(found: str) -> str:
    return "".join(filter(str.isdecimal, found))


def _email(found: str) -> int:
    return 0 if found.rpartition(".")[2].lower() in NOT_DOMAINS or ".." in found else len(found)


def _ip(found: str) -> int:
    try:
        return len(found) if ipaddress.ip_address(found).is_global else 0
    except ValueError:
        return 0


def _phone(found: str) -> int:
    digits = _digits(found)
    if (found.startswith(("+1", "+7")) and len(digits) != 11) or found.count(".") == 1:  # +3.14159265
        return 0
    return len(found) if 8 <= len(digits) <= 15 else 0


def _card(found: str) -> int:
    digits = _digits(found)
    return len(found) if CARD.fullmatch(digits) and _luhn(digits) else 0


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _iban(found: str) -> int:
    """The match may reach into the words behind: the country tells how many characters belong to it."""
    wanted = IBAN_LENGTHS.get(found[:2], 0)
    ends = [match.end() for match in re.finditer(r"[A-Z0-9]", found)]
    if not wanted or len(ends) < wanted:
        return 0
    length = ends[wanted - 1]
    if found[length : length + 1].isalnum():
        return 0
    plain = found[:length].replace(" ", "")
    return length if int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1 else 0


def _cn_id(found: str) -> int:
    if found[:2] not in PROVINCES:
        return 0
    try:
        born = datetime.date(int(found[6:10]), int(found[10:12]), int(found[12:14]))
    except ValueError:
        return 0
    check = "10X98765432"[sum(int(digit) * pow(2, 17 - i, 11) for i, digit in enumerate(found[:17])) % 11]
    return len(found) if born.year >= 1850 and found[17].upper() == check else 0


# In this order, so that a longer number is not taken for a shorter one in it. \b would not do without ASCII: in Chinese
# text numbers stand between letters without a space.
PATTERNS = {
    "email": r"(?<![\w.%+-])[\w%+-][\w.%+-]{0,63}(?<!\.)@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
    r"[A-Za-z]{2,24}(?![\w-])",
    "iban": r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![a-z])",
    "cn_id": r"(?<!\w)[1-8]\d{5}(?:18|19|20)\d{9}[\dXx](?!\w)",
    "card": r"(?<![\w.+-])\d{4}(?:\d{9,15}|(?P<gap>[ -])\d{4,6}(?:(?P=gap)\d{3,7}){1,3})(?![\w-])",
    "ip": r"(?<![\w.])(?<![A-Za-z]/)\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?!\.?\w)"
    r"|(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?<!:)(?:::)?(?![\w:]|\.\d)",
    "phone": r"(?<![\w.+])(?<!\d-)(?:"
    rf"\+{CALLING}(?:[ .-]?\(?\d{{1,5}}\)?){{2,6}}"
    r"|1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}"
    r"|(?:0[12]\d|0[3-9]\d{2})[ -]\d{7,8}|[(（](?:0[12]\d|0[3-9]\d{2})[)）] ?\d{7,8}"
    r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[.-]\d{4}"
    r")(?![\w-]|\.\d)",
}
LENGTHS = {"email": _email, "iban": _iban, "cn_id": _cn_id, "card": _card, "ip": _ip, "phone": _phone}
KINDS = {
    name: Kind(re.compile(pattern, re.ASCII), LENGTHS[name], "@" if name == "email" else "")
    for name, pattern in PATTERNS.items()
}
