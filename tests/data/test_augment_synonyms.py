"""Synonyms: whole words only, as the dictionary has them; users' files and WordNet's, and what is wrong with a file."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from manta.data.augment import dictionary, synonyms, wordnet
from manta.data.augment.job import Job, entropy
from manta.errors import InputError
from manta.sections.augment import Synonyms

TSV = "car\tautomobile\tmotorcar\nbig\tlarge\thuge\nold\tancient\n\n安静\t宁静\n船\t舟\nstart\tbegin\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "words.tsv").write_text(TSV, encoding="utf-8")
    return str(tmp_path / "words.tsv")


def replaced(text: str, path: str | None, number: int = 0, language: str = "", **more: Any) -> str:
    settings = Synonyms(augment="synonyms", path=path, **({"rate": 1.0} | more))
    job = Job(0, number, text, language, entropy(0, b"0" * 16, "synonyms", number))
    [made] = synonyms.synonyms([job], settings, "data.augment.0")
    return made.text


def test_words_are_replaced_by_their_synonyms(path: str) -> None:
    found = {replaced("The big car, the old one.", path, n) for n in range(40)}
    assert found == {
        f"The {big} {car}, the ancient one." for big in ("large", "huge") for car in ("automobile", "motorcar")
    }


def test_never_in_the_middle_of_a_word_nor_in_capitals(path: str) -> None:
    text = "Big cars, carpets, scar; a bigger CAR, car-park, Old_car, http://car.com/big/car and oldest: o-l-d."
    assert replaced(text, path) == text
    chinese = "安静的船长在轮船上"  # 船长 and 轮船 are words of their own
    assert replaced(chinese, path) == "宁静的船长在轮船上"


def test_the_article_must_fit(path: str) -> None:
    assert {replaced("a car", path, n) for n in range(20)} == {"a motorcar"}
    assert {replaced("an old car", path, n) for n in range(20)} == {"an ancient automobile", "an ancient motorcar"}
    assert replaced("a start", path) == "a begin"


def test_the_rate_is_of_all_words(path: str) -> None:
    text = "one big two big three big four big five big"
    for rate, count in ((0.1, 1), (0.3, 3), (0.5, 5), (1.0, 5)):
        other = replaced(text, path, rate=rate)
        assert len(re.findall("large|huge", other)) == count
    assert len(re.findall("large|huge", replaced("a very long text with one big word in it", path, rate=0.01))) == 1


def test_a_file_may_be_json_lines_and_compressed(path: str, tmp_path: Path) -> None:
    rows = [{"word": "car", "synonyms": ["automobile"]}, {"word": "car", "synonyms": ["motorcar", "car"]}]
    lines = "\n".join(json.dumps(row) for row in rows)
    packed = tmp_path / "words.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.encode()))
    assert dictionary.read(str(packed), "here") == {"car": ("automobile", "motorcar")}
    assert dictionary.read(path, "here")["car"] == ("automobile", "motorcar")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", b"car\tauto\nbig large\n", "line 2 is not word<TAB>"),
        ("b.tsv", b"car\t\xff\xfe\n", "not UTF-8"),
        ("c.jsonl", b'{"word": "car"}\n', "line 1 is not"),
        ("d.jsonl", b"car\n", "line 1 is not"),
        ("e.jsonl", b'["car"]\n', "line 1 is not"),
        ("f.tsv", None, "does not exist"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"data.augment.0.path = .*" + said):
        replaced("a car", str(tmp_path / name))


# --- WordNet ---------------------------------------------------------------------------------------------------------

LICENCE = "  1 This software and database is being provided to you, the LICENSEE  \n"
# offset, file, part, words (hexadecimal count) with their ids, pointers | gloss
DATA = {
    "noun": "00000100 06 n 03 car 0 automobile 1 motor_car 0 000 | a vehicle\n"
    "00000200 06 n 02 car 1 railcar 0 000 | a wheeled vehicle on rails\n"
    "00000300 13 n 02 are 0 acre 0 000 | a hundred square metres\n"
    "00000400 06 n 02 saw 0 whipsaw 0 000 | a tool\n"
    "00000500 06 n 02 purchase 0 leverage 0 000 | a hold\n"
    "00000600 06 n 02 Paris 0 metropolis 0 000 | a city\n",
    "verb": "00000700 40 v 02 purchase 0 buy 0 000 01 + 08 00 | obtain by payment\n",
    "adj": "00000800 00 s 02 asleep(p) 0 sleeping(a) 0 000 | in a state of sleep\n",
    "adv": "",
}
INDEX = {
    "noun": "are n 1 0 1 0 00000300  \ncar n 2 2 @ ~ 2 2 00000100 00000200  \npurchase n 1 1 @ 1 1 00000500  \nsaw n 1 0 1 0 00000400  \n",
    "verb": "buy v 1 0 1 1 00000700  \npurchase v 1 1 @ 1 1 00000700  \n",
    "adj": "asleep a 1 0 1 1 00000800  \n",
    "adv": "",
}


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A WordNet of few words, in the format of the real one."""
    for part in DATA:
        (tmp_path / f"data.{part}").write_text(LICENCE + DATA[part])
        (tmp_path / f"index.{part}").write_text(LICENCE + INDEX[part])
    (tmp_path / "verb.exc").write_text("saw see\n")
    (tmp_path / "cntlist.rev").write_text("purchase%1:06:00:: 1 2\npurchase%2:40:00:: 1 9\nasleep%5:00:00:x:00 1 4\n")
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))


@pytest.mark.usefixtures("net")
def test_wordnet_gives_the_commonest_meaning() -> None:
    assert wordnet.read("here") == {
        "car": ("automobile",),  # not railcar, which is its second meaning; motor_car is no single word
        "purchase": ("buy",),  # the verb stands in texts more often
        "buy": ("purchase",),
        "asleep": ("sleeping",),
    }


@pytest.mark.usefixtures("net")
def test_wordnet_replaces_words_of_english_documents() -> None:
    from manta.data import augment, dedup

    texts = [
        "We are glad that they saw the car of the man whom nobody in this town had ever met before.",
        "我们的 car 很安静，没有人相信。",
    ]
    chosen = [Synonyms(augment="synonyms", share=1.0, rate=1.0)]
    found = list(augment.variants(texts, ["", ""], [dedup.digest(text) for text in texts], chosen, 0))
    assert [(v.document, v.text) for v in found] == [(0, texts[0].replace("car", "automobile"))]


def test_without_wordnet_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    monkeypatch.delenv("WNHOME", raising=False)
    monkeypatch.setattr(wordnet, "DEBIAN", str(tmp_path))
    with pytest.raises(InputError, match=r"data.augment.0.path: .*wordnet-base"):
        replaced("a car", None)
