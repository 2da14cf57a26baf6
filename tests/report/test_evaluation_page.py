"""The page of an evaluation: intervals, the table of classes, the matrix, the worst answers, all escaped and self-contained."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from manta.report import page
from tests.report.evaluations import written


def pictures_of(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def made(where: str) -> str:
    """The page, with one blank for several."""
    return " ".join(Path(page.write(where)).read_text(encoding="utf-8").split())


def test_a_classifier_has_its_table_and_its_matrix(tmp_path: Path) -> None:
    guesses, truths = ["a&b", "c", "c", "c"], ["a&b", "c", "a&b", "c"]
    text = made(written(tmp_path, "x", task="classification", predictions=guesses, references=truths))
    assert "<tr><td>score<td>75<td>25 to 100" in text
    assert "a&amp;b 100.0 50.0 66.7 2 " in text
    [matrix] = pictures_of(text)
    assert [cell.findtext("title") for cell in matrix.iter("rect")][1] == "a&b taken for c: 1 of 2"
    assert text.index("wanted: a&amp;b answer: c") < text.index("wanted: c answer: c"), "the worst answer comes first"
    assert "http" not in text


def test_a_classifier_that_says_how_sure_it_is_has_its_reliability(tmp_path: Path) -> None:
    given = {"predictions": ["a", "b"], "references": ["a", "a"], "confidence": [[0.95, 0.05], [0.35, 0.65]]}
    text = made(written(tmp_path, "x", task="classification", labels=["a", "b"], **given))
    # gaps 0.05 and 0.65 of half the answers each; Brier (2 x 0.05^2 + 2 x 0.65^2) / 2
    assert "accuracy 50.0%, confidence 80.0%, calibration error 35.0%" in text
    assert "Brier score 0.425" in text
    _, diagram = pictures_of(text)
    assert "0.90 to 1.00: 1 answers, 95.0% sure, 100.0% right" in {
        bar.findtext("title") for bar in diagram.iter("rect")
    }


def test_sets_of_labels_and_entities_have_a_table_but_no_matrix(tmp_path: Path) -> None:
    several = made(written(tmp_path, "x", task="classification", predictions=[["a"], []], references=[["a", "b"], []]))
    assert "subset accuracy" in several
    tagged = made(written(tmp_path, "y", task="tagging", predictions=[["B-PER", "O"]], references=[["B-PER", "I-PER"]]))
    assert "PER 0.0 0.0 0.0 1 " in tagged
    words = made(written(tmp_path, "z", task="tagging", predictions=[["NOUN", "VERB"]], references=[["NOUN", "NOUN"]]))
    assert "accuracy 50.0 2 " in words
    assert not pictures_of(several + tagged + words)


def test_answers_and_likelihoods_have_intervals(tmp_path: Path) -> None:
    given = {"predictions": ["<i>no", "a b"], "references": ["yes", "a b"], "nll": [4.0, 4.0], "tokens": [4, 4]}
    text = made(written(tmp_path, "x", task="summarisation", **given))
    assert "<tr><td>perplexity<td>2.718<td>2.718 to 2.718" in text
    assert "answer: &lt;i&gt;no" in text
    assert "Classes" not in text


def test_a_broken_model_has_a_page(tmp_path: Path) -> None:
    text = made(written(tmp_path, "x", task="chat", nll=[float("nan")], tokens=[4]))
    assert "<tr><td>perplexity<td>not a number<td>not known" in text


def test_speeds_stand_beside_the_base_s(tmp_path: Path) -> None:
    import json

    where = written(tmp_path, "x", task="summarisation", predictions=["a"], references=["a"])
    file = Path(where) / "scores.json"
    report = json.loads(file.read_text())
    report["figures"] |= {"tokens_per_second_1": 30.0, "base_tokens_per_second_1": 20.0, "first_token_ms": 50.0}
    report["figures"] |= {"speedup_1": 1.5, "base_first_token_ms": 100.0, "peak_memory_bytes": 7.0}
    report["speed"] = {"settings": {"batches": [1], "cpus": 2}, "turns": {}}
    file.write_text(json.dumps(report))
    text = made(where)
    assert "<tr><td>tokens per second 1<td>30<td>20<td>1.50" in text
    assert "<tr><td>first token ms<td>50<td>100<td>0.50" in text
    assert "<tr><td>peak memory bytes<td>7<td><td>" in text
    assert "In turns; batches [1], cpus 2." in text
