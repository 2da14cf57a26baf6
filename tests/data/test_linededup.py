"""Lines and paragraphs that many documents share: counted over the corpus, then removed from every document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.data import exchange, linededup, shards
from manta.data.refine import Refined
from manta.storage import Folder
from tests.data import refining
from tests.data.refining import texts_of

FOOTER, FUSS = "Subscribe to our newsletter today!", "版权所有,未经许可不得转载或复制本页的任何内容。"


pytestmark = pytest.mark.usefixtures("without_ray")


def refined(tmp_path: Path, texts: list[str], *after: dict[str, Any], each: int = 2, **settings: Any) -> Refined:
    """The texts after line_dedup and the steps `after` it."""
    return refining.refined(tmp_path, texts, [{"step": "line_dedup", **settings}, *after], each)


def test_what_too_many_documents_say_none_of_them_says(tmp_path: Path) -> None:
    texts = [f"Page {number} has a line of its own, and a footer.\n{FOOTER}\n{FUSS}" for number in range(4)]
    texts += [f"第{number}页有自己的一行内容,也有页脚,与其他页不同。\n{FUSS}" for number in range(2)]
    texts += ["Three documents are not too many: so it stays.\nNo doubt about it."] * 3
    texts += ["Short.\nIndeed it is"] * 5
    found = refined(tmp_path, texts)
    left = texts_of(tmp_path, found)
    assert left[:4] == [f"Page {number} has a line of its own, and a footer." for number in range(4)], "also the first"
    assert left[4:6] == [f"第{number}页有自己的一行内容,也有页脚,与其他页不同。" for number in range(2)]
    assert left[6:] == texts[6:]
    assert found.corpus.remove is None, "removed, and not to be removed again"
    assert found.corpus.chars[:4].tolist() == [len(text) for text in left[:4]]


def test_a_document_counts_once_however_often_it_says_it(tmp_path: Path) -> None:
    line = "the same line over and over again"
    texts = ["\n".join([line] * 9)] * 3 + ["another line that stands only here"]
    assert texts_of(tmp_path, refined(tmp_path, texts)) == texts
    left = texts_of(tmp_path / "more", refined(tmp_path / "more", [f"{line}\nnumber {n}\n{line}" for n in range(4)]))
    assert left == [f"number {n}" for n in range(4)]


def test_case_form_and_outer_space_do_not_matter(tmp_path: Path) -> None:
    variants = ["Café opening hours: all day", "  CAFE\u0301 OPENING HOURS: ALL DAY", "\tcafé opening hours: all day"]
    texts = [f"own {number}\n{variant}" for number, variant in enumerate([*variants, variants[0]])]
    steps: list[dict[str, Any]] = [{"step": "length", "min_chars": 1}]
    assert texts_of(tmp_path, refined(tmp_path, texts, *steps)) == [f"own {number}" for number in range(4)]


def test_the_settings_count(tmp_path: Path) -> None:
    texts = [f"own line number {number}\n{FOOTER}" for number in range(3)]
    bare = [text.split("\n")[0] for text in texts]
    for name, settings, left in (
        ("default", {}, texts),
        ("fewer", {"max_documents": 2}, bare),
        ("longer", {"max_documents": 2, "min_chars": len(FOOTER)}, bare),
        ("too long", {"max_documents": 2, "min_chars": len(FOOTER) + 1}, texts),
        ("paragraph", {"max_documents": 2, "unit": "paragraph"}, texts),
    ):
        assert texts_of(tmp_path / name, refined(tmp_path / name, texts, **settings)) == left, name


def test_paragraphs_go_with_the_empty_lines_after_them(tmp_path: Path) -> None:
    notice = "All rights reserved.\nNo part may be copied."
    texts = [f"  Chapter {n}\n\n{notice}\n \n\n  indented {n}\nand more\n\n{notice}" for n in range(4)]
    texts.append("All rights reserved.\n\nNo part may be copied.")
    left = texts_of(tmp_path, refined(tmp_path, texts, unit="paragraph"))
    assert left[:4] == [f"  Chapter {n}\n\n  indented {n}\nand more" for n in range(4)]
    assert left[4] == texts[4], "its lines are no such paragraph"


def test_a_document_of_shared_lines_only_is_dropped_and_counted(tmp_path: Path) -> None:
    texts = [FOOTER, f"{FOOTER}\n\n{FOOTER}", *(f"own {number}\n{FOOTER}" for number in range(3))]
    found = refined(tmp_path, texts)
    assert texts_of(tmp_path, found) == [f"own {number}" for number in range(3)]
    assert found.figures["dropped"] == {"line_dedup.nothing_left": 2}
    assert (found.figures["documents_read"], found.figures["documents_kept"]) == (5, 3)


def test_later_steps_see_what_is_left(tmp_path: Path) -> None:
    texts = [f"number {n % 2}\n{FOOTER}" for n in range(4)]
    found = refined(tmp_path, texts, {"step": "exact_dedup"})
    assert texts_of(tmp_path, found) == ["number 0", "number 1"]
    short = refined(tmp_path / "short", [*texts, "x" * 50], {"step": "length", "min_chars": 20})
    assert short.figures["dropped"] == {"length.min_chars": 4}


@pytest.mark.parametrize("each", [1, 3, 50])
@pytest.mark.parametrize("pairs", [5, 1 << 24])
def test_parts_and_partitions_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, pairs: int
) -> None:
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", pairs)
    lines = [f"a line that has the number {number}" for number in range(60)]
    texts = ["\n".join(lines[n::5] + lines[n::7] + [f"own {n}"]) for n in range(12)]
    counts = {line: sum(line in text.split("\n") for text in texts) for line in lines}
    left = texts_of(tmp_path, refined(tmp_path, texts, each=each))
    assert left == ["\n".join(line for line in text.split("\n") if counts.get(line, 0) <= 3) for text in texts]
    assert 0 < sum(count > 3 for count in counts.values()) < 60, "some are to be removed"


def test_the_hashes_are_sorted_and_of_no_more_than_the_frequent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", 5)
    lines = [f"a line that has the number {number}" for number in range(40)]
    refined(tmp_path, ["\n".join(lines) + f"\nand a line that only page {n} has" for n in range(4)])
    found = shards.read_table(Folder(tmp_path / "shards"), "work/corpus/0-line_dedup/remove.parquet")
    expected = np.sort(linededup.hashed("\n".join(lines), "line")[0])
    assert found.column("hash").to_numpy().tolist() == expected.tolist()


def test_nothing_shared_changes_nothing(tmp_path: Path) -> None:
    texts = ["a line of the first document", "a line of the second document"]
    assert texts_of(tmp_path, refined(tmp_path, texts)) == texts
    assert not (tmp_path / "shards/work/corpus/0-line_dedup/remove.parquet").exists()


def test_a_set_of_hashes_knows_its_own_and_no_others() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 100, 5000):
        hashes = np.unique(rng.integers(0, 2**64, size=size, dtype=np.uint64))
        # Neighbours share their leading bits, so that only the search tells them apart.
        asked = np.concatenate(
            [hashes, hashes + np.uint64(1), hashes - np.uint64(1), np.array([0, 2**64 - 1], np.uint64)]
        )
        expected = [number in set(hashes.tolist()) for number in asked.tolist()]
        assert exchange.Known(hashes).holds(asked).tolist() == expected
