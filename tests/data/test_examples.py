"""Which docstrings make a (body, first line) pair, and that no validation pair is given away by a training pair."""

from __future__ import annotations

import pytest

from manta.data import examples

BODY = "If the future has been cancelled, raises CancelledError. If the result is not yet available, raises InvalidStateError."


def document(summary: str, body: str = BODY, heading: str = "## `def mod.result(self)`") -> str:
    return f"# `mod`\n\nA module.\n\nWith a body that is long enough to be one, if modules counted, which they do not at all.\n\n{heading}\n\n{summary}\n\n{body}\n\n## `class mod.Other`\n\nOther summary only."


def test_a_docstring_with_summary_and_body_is_a_pair() -> None:
    assert list(examples.docstring_summary(document("Return the result this future represents."))) == [
        (BODY, "Return the result this future represents.")
    ]


def test_the_last_docstring_of_a_document_counts_too() -> None:
    text = document("Too short.").replace("Other summary only.", f"Another thing that has a body.\n\n{BODY}")
    assert list(examples.docstring_summary(text)) == [(BODY, "Another thing that has a body.")]


@pytest.mark.parametrize(
    "summary",
    [
        "Too short.",
        "One-long-word-without-any-space-in-it.",
        "result(self, timeout) returns the result of it",
        "Return -> the result of the future",
        ">>> doctest first, then words",
        "The following arguments are known:",
        "A first line that\ngoes on in the next one",
        "A long sentence " * 10,
    ],
)
def test_a_first_line_that_is_no_summary_makes_no_pair(summary: str) -> None:
    assert not list(examples.docstring_summary(document(summary)))


@pytest.mark.parametrize(
    "body", ["Too short.", "x" * 2001, ">>> f(1, 2)\n3\n" * 10, f"Return the result it represents. {BODY}"]
)
def test_a_body_that_is_no_prose_or_holds_the_answer_makes_no_pair(body: str) -> None:
    assert not list(examples.docstring_summary(document("Return the result it represents.", body)))


def test_modules_and_readmes_make_no_pair() -> None:
    summary = "Return the result this future represents."
    assert not list(examples.docstring_summary(document(summary, heading="# `mod.sub`")))
    assert not list(examples.docstring_summary(f"# Title\n\n{summary}\n\n{BODY}"))


def test_each_input_and_each_target_comes_once_across_the_splits() -> None:
    seen: set[bytes] = set()
    train = list(examples.unique([("in 1", "out 1"), ("in 2", "out 1"), ("in 1", "out 2"), ("in 3", "out 3")], seen))
    assert train == [("in 1", "out 1"), ("in 3", "out 3")]
    assert list(examples.unique([("in  3", "new"), ("new", "out 3"), ("in 4", "out 4")], seen)) == [("in 4", "out 4")]
