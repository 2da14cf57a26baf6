"""Pairs of sentences out of apt's lists of descriptions: what is paired, what is left out, what is held out."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from manta.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ENGLISH = """Package: ada
Description-md5: 01
Description-en: compiler for the language Ada
 It reads programs of all ages. It writes what machines run.
 .
 A second paragraph.

Package: ada
Description-md5: 02
Description-en: compiler of another version
 This one has no German.

Package: list
Description-md5: 03
Description-en: things that stand in a list
  * one thing
  * another thing

Package: name
Description-md5: 04
Description-en: Proper Name Of It
 The words of this paragraph are the very same ones.
 They make one sentence. And here is another one.
"""
GERMAN = """Package: ada
Description-md5: 01
Description-de: Compiler für die Sprache Ada
 Er liest Programme jeden Alters. Er schreibt, was Maschinen ausführen.
 .
 Ein zweiter Absatz.

Package: list
Description-md5: 03
Description-de: Dinge, die in einer Liste stehen
  * ein Ding

Package: name
Description-md5: 04
Description-de: Proper Name Of It
 Die Wörter dieses Absatzes machen einen einzigen langen Satz.

Package: gone
Description-md5: 05
Description-de: Das gibt es auf Englisch nicht mehr
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The benchmark's modules, with lists of apt that hold three packages in both languages."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = {name: importlib.import_module(name) for name in ("harness", "task_examples", "descriptions")}
    monkeypatch.setattr(found["harness"], "SCRATCH", tmp_path / "scratch")
    lists = tmp_path / "scratch" / "descriptions" / "apt" / "lists"
    lists.mkdir(parents=True)
    for language, text in (("en", ENGLISH), ("de", GERMAN)):
        (lists / f"a_main_i18n_Translation-{language}").write_text(text, encoding="utf-8")
    return found


def test_what_is_paired(modules: dict[str, Any]) -> None:
    """First lines and first sentences; no lists, no paragraphs of other numbers of sentences, nothing left in English."""
    found = [(each["input"], each["target"]) for each in modules["descriptions"].pairs()]
    assert found == [
        ("compiler for the language Ada", "Compiler für die Sprache Ada"),
        ("It reads programs of all ages.", "Er liest Programme jeden Alters."),
        ("things that stand in a list", "Dinge, die in einer Liste stehen"),
    ]


def test_whole_descriptions_are_read_by_the_model(modules: dict[str, Any]) -> None:
    first = next(modules["descriptions"].descriptions())
    assert first.package == "ada"
    assert first.texts["de"].splitlines()[2:] == ["", "Ein zweiter Absatz."]


def test_a_family_is_held_out_as_a_whole(modules: dict[str, Any]) -> None:
    held_out = modules["descriptions"].held_out
    letters = [f"{one}{other}" for one in "abcdefghijklmnop" for other in "abcdefghijklmnop"]
    for name in letters:
        assert (
            len({held_out(each) for each in (name, f"lib{name}2", f"{name}-dev", f"lib{name}-3.0-doc", f"2{name}")})
            == 1
        )
    assert 4 <= sum(held_out(name) for name in letters) <= 32, "about one in sixteen of 256"


def test_what_is_held_out_is_not_learnt(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def some() -> Any:
        for number in range(60):
            yield {"input": f"text {number}", "target": "x", "held_out": number % 3 == 0}

    monkeypatch.setitem(modules["task_examples"].KINDS, "some", some)
    files = modules["task_examples"].split("some", 30, 15)
    train, test = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert len(train) == 30 and len(test) == 15
    assert all(int(each["input"].split()[1]) % 3 == 0 for each in test)
    assert all(int(each["input"].split()[1]) % 3 for each in train)
    assert set(train[0]) == {"input", "target"}


def test_without_apt_it_says_so(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "scratch")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no apt-get here: run it on Debian"):
        next(modules["descriptions"].pairs())


def test_lists_without_german_are_refused(modules: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "scratch/descriptions/apt/lists/a_main_i18n_Translation-de").unlink()
    with pytest.raises(InputError, match="4 English and 0 German descriptions"):
        next(modules["descriptions"].pairs())
