"""Personal data in English and Chinese sentences: what has the form and passes the check goes, what looks alike stays."""

from __future__ import annotations

import pytest

from manta.data import cleaning
from manta.data.cleaning import Batch
from manta.sections.prepare import Pii

KINDS = ["email", "ip", "phone", "card", "iban", "cn_id"]
FOUND = {
    "email": ["jane.doe+news@mail.example.co.uk", "wang_wei@163.com"],
    "ip": ["8.8.8.8", "2001:4860:4860::8888"],
    "phone": ["+44 20 7946 0958", "(415) 555-2671", "+1-415-555-2671", "13812345678", "+86 138 1234 5678", "010-62345678"],
    "card": ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "cn_id": ["11010519491231002X", "11010519491231002x"],
}  # fmt: skip
# One digit or form away from the above, or of a kind that tells nobody's identity.
KEPT = [
    "logo@2x.png", "@decorator", "a@b", "192.168.1.1", "127.0.0.1", "10.0.0.8", "192.0.2.7", "256.8.8.8", "1.2.3.4.5",
    "v8.8.8.8", "Chrome/120.0.0.0", "12:34:56", "std::vector", "2001:db8::1", "2024-01-02", "1234567890", "12812345678",
    "0.13812345678", "+3.14159265", "4111 1111 1111 1112", "9999999999999995", "DE89 3704 0044 0532 0130 01",
    "ZZ82WEST12345698765432", "110105194912310021", "110105199902300025", "99010519491231002X",
]  # fmt: skip
AROUND = ["Please write to {}, or wait.", "请联系{}，谢谢。"]


def clean(text: str, **settings: object) -> cleaning.Outcome:
    return cleaning.apply(Batch([text], ["zh"]), [Pii.model_validate({"step": "pii", "kinds": KINDS, **settings})])


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_replaced_by_its_name(kind: str, around: str) -> None:
    for found in FOUND[kind]:
        assert clean(around.format(found)).texts == [around.format(f"<{kind}>")]
        assert clean(around.format(found), kinds=[kind]).texts == [around.format(f"<{kind}>")]
        others = [other for other in KINDS if other != kind]
        assert f"<{kind}>" not in clean(around.format(found), kinds=others).texts[0]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("text", KEPT)
def test_what_only_looks_alike_stays(text: str, around: str) -> None:
    assert clean(around.format(text)).texts == [around.format(text)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_dropped_under_the_kind(kind: str) -> None:
    planted = AROUND[1].format(FOUND[kind][0])
    outcome = clean(planted, action="drop")
    assert outcome.reasons == [f"pii.{kind}"]
    assert outcome.texts == [planted], "its text is not changed"
    assert clean("Nothing here. 这里没有。", action="drop").reasons == [None]


def test_several_in_a_row_and_words_behind_an_iban() -> None:
    line = "Cards 378282246310005 5555555555554444; DE89 3704 0044 0532 0130 00 AND MORE; 8.8.8.8,8.8.4.4."
    assert clean(line).texts == ["Cards <card> <card>; <iban> AND MORE; <ip>,<ip>."]


def test_replacing_twice_changes_nothing() -> None:
    once = clean(" ".join(found[0] for found in FOUND.values())).texts[0]
    assert once == " ".join(f"<{kind}>" for kind in FOUND)
    assert clean(once).texts == [once]


def test_the_default_kinds_are_email_and_ip() -> None:
    outcome = cleaning.apply(Batch(["a.b@c.org 8.8.8.8 13812345678"], [""]), [Pii(step="pii")])
    assert outcome.texts == ["<email> <ip> 13812345678"]
