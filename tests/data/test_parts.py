"""Steps on the whole corpus find the same however its documents are cut into parts and its hashes into partitions."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.data import exchange
from manta.data.corpus import exact_dedup
from manta.data.linededup import line_dedup
from manta.data.neardup import near_dedup
from manta.sections.prepare import LineDedup, NearDedup
from manta.storage import Folder
from tests.data.prose import JOINT, SHARED, paragraphs
from tests.data.refining import context, one_by_one, stored

NEAR, LINES = NearDedup(step="near_dedup"), LineDedup(step="line_dedup", max_documents=2)


def variants(lang: str, seed: int) -> list[str]:
    """A text; it with other white space, another word, another beginning, and lines that other texts have too."""
    lines = paragraphs(lang, seed)
    longer = [*paragraphs(lang, f"{seed} more", 1), *lines]
    shared = SHARED[lang][seed % 2]
    changed = JOINT[lang].join([lines[0].replace(*{"en": ("the", "some"), "zh": ("的", "之")}[lang]), *lines[1:]])
    return ["\n".join(lines), " ".join(lines), changed, "\n".join(longer), "\n".join([*lines, shared]), shared]


POOL = ["", "short", *(text for lang in ("en", "zh") for seed in range(3) for text in variants(lang, seed))]


def found(texts: list[str], cuts: list[int], pairs: int, keep: list[int]) -> dict[str, Any]:
    """What each step says of the documents `keep` of a corpus with new parts at `cuts`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "spread", one_by_one)
        patch.setattr(exchange, "PARTITION_PAIRS", pairs)
        folder = Folder(f"memory://{uuid.uuid4().hex}")
        corpus = stored(folder, texts, cuts)
        corpus = replace(corpus, kept=np.array(keep, dtype=np.int64))
        lines = line_dedup(corpus, LINES, context(folder, "line_dedup"))
        return {
            "exact": exact_dedup(corpus, None, context(folder, "exact_dedup")).kept.tolist(),
            "near": near_dedup(corpus, NEAR, context(folder, "near_dedup")).kept.tolist(),
            "lines": exchange.read_hashes(folder, lines.remove)[0].tolist() if lines.remove else [],
        }


@given(st.data(), st.lists(st.sampled_from(POOL), min_size=1, max_size=16), st.sampled_from([3, 20, 1 << 24]))
@settings(max_examples=60)
def test_parts_change_nothing(data: st.DataObject, texts: list[str], pairs: int) -> None:
    places = st.integers(1, len(texts) - 1) if len(texts) > 1 else st.nothing()
    cuts = sorted(data.draw(st.sets(places), label="cuts"))
    keep = sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1), label="keep"))
    whole = found(texts, [], 1 << 24, keep)
    assert found(texts, cuts, pairs, keep) == whole
    kept = {texts[number] for number in whole["exact"]}
    assert {" ".join(text.split()) for text in kept} == {" ".join(texts[number].split()) for number in keep}


def test_the_pool_has_what_the_steps_look_for() -> None:
    told = found(POOL, [5, 9], 20, list(range(len(POOL))))
    assert len(told["exact"]) < len(POOL)
    assert len(told["near"]) < len(told["exact"])
    assert told["lines"]
