"""A fuzz of the HTTP interface finds what breaks its word, and nothing in what keeps it."""

from __future__ import annotations

from pathlib import Path

from tests.serving import talker
from tests.serving.described_engine import DescribedEngine
from tests.serving.fake_engine import KEY, hashed, launch
from tests.serving.fuzz import fuzz


def test_broken_routes_are_found_and_no_others(tmp_path: Path) -> None:
    """One path fails for a rare field, another answers in a shape that it does not tell; the rest keeps its word."""
    engine = DescribedEngine(breaks="/tokenize", bends="/detokenize")
    made = launch(key_hashes=hashed(KEY), max_ongoing_requests=64, max_body_bytes=100_000)
    with talker.listening(engine, made) as url:
        found = fuzz(url, KEY, tmp_path, "--max-examples", "10")
    wrong = {line for line in found.wrong if ":" in line}
    assert wrong == {"Server error: POST /tokenize", "Response violates schema: POST /detokenize"}, found.told[-3000:]
    assert "secret" not in found.told
    answered, _ = found.rates["POST /v1/completions"]
    assert answered > 0
