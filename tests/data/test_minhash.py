"""Shingles against plain Python, and MinHash bands against what theory says of them."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from manta.data import shingles as shingling
from manta.data.minhash import band_hashes
from manta.data.shingles import shingles

ENGLISH = "The quick brown fox jumps over the lazy dog, and the quick brown fox sleeps."
CHINESE = "明天我们去北京大学学习中文,然后明天我们去吃饭。"
MIXED = "我们用 Python 3 写 naïve code—très bien! Ελληνικά हिन्दी"
TEXTS = [ENGLISH, "", CHINESE, "one", MIXED, "...\n", "over the lazy dog! And THE QUICK (brown) fox", "ab c a bc abc"]
PLAIN = {
    ENGLISH: ENGLISH.lower().replace(",", "").replace(".", "").split(),
    CHINESE: list(CHINESE.replace(",", "").replace("。", "")),
    MIXED: ["我", "们", "用", "python", "3", "写", "naïve", "code", "très", "bien", "ελληνικά", "हिन्दी"],
    TEXTS[6]: ["over", "the", "lazy", "dog", "and", "the", "quick", "brown", "fox"],
    TEXTS[7]: ["ab", "c", "a", "bc", "abc"],
    "one": ["one"],
}


def plain(text: str, ngram: int) -> list[tuple[str, ...]]:
    words = PLAIN.get(text, [])
    return [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]


@pytest.mark.parametrize("ngram", [1, 2, 3, 5])
@pytest.mark.parametrize("piece_chars", [1, 40, 1 << 17])
def test_equal_hashes_are_equal_n_grams(ngram: int, piece_chars: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shingling, "PIECE_CHARS", piece_chars)
    monkeypatch.setattr(shingling, "_usual_powers", lambda base: shingling._powers_below(base, 2 * piece_chars))
    hashes, offsets = shingles(TEXTS, ngram)
    expected = [plain(text, ngram) for text in TEXTS]
    assert np.diff(offsets).tolist() == [len(found) for found in expected]
    flat = [gram for found in expected for gram in found]
    assert hashes.dtype == np.uint64
    assert len(set(zip(hashes.tolist(), flat, strict=True))) == len(set(flat)) == len(set(hashes.tolist()))


def test_texts_without_words_have_no_shingles() -> None:
    for texts in ([], [""], ["...", " \n"], ["one two"]):
        hashes, offsets = shingles(texts, 3)
        assert len(hashes) == 0
        assert offsets.tolist() == [0] * (len(texts) + 1)
        found, which = band_hashes(hashes, offsets, 4, 2)
        assert found.shape == (0, 4)
        assert len(which) == 0


def test_a_long_text_has_the_same_shingles_as_its_parts() -> None:
    words = [f"w{number}" for number in range(60_000)]
    whole, _ = shingles([" ".join(words)], 2)
    assert len(" ".join(words)) > 2 * shingling.PIECE_CHARS, "longer than what is usual"
    pairs, _ = shingles([f"{one} {two}" for one, two in itertools.pairwise(words)], 2)
    assert (whole == pairs).all()


def test_bands_know_the_set_alone() -> None:
    hashes, _ = shingles([ENGLISH * 9], 3)
    shuffled = np.random.default_rng(0).permutation(np.concatenate([hashes, hashes[:5]]))
    one, which = band_hashes(
        np.concatenate([hashes, shuffled]), np.array([0, len(hashes), len(hashes), len(hashes) + len(shuffled)]), 16, 8
    )
    assert which.tolist() == [0, 2]
    assert (one[0] == one[1]).all()
    assert len(set(one[0].tolist())) == 16, "equal rows in different bands do not meet"


@pytest.mark.parametrize(("bands", "rows"), [(16, 8), (20, 5)])
@pytest.mark.parametrize("size", [30, 200])
@pytest.mark.parametrize("jaccard", [0.15, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9])
def test_sets_meet_as_often_as_theory_says(bands: int, rows: int, size: int, jaccard: float) -> None:
    pairs = 3000  # the statistical error is below one point
    common = round(2 * jaccard * size / (1 + jaccard))
    rng = np.random.default_rng([bands, size, common])
    members = rng.integers(0, 2**64, size=(pairs, 2 * size - common), dtype=np.uint64)
    both = np.stack([members[:, :size], members[:, size - common :]], axis=1)
    found, _ = band_hashes(both.reshape(-1), np.arange(2 * pairs + 1) * size, bands, rows)
    met = (found[::2] == found[1::2]).any(axis=1).mean()
    assert met == pytest.approx(1 - (1 - (common / (2 * size - common)) ** rows) ** bands, abs=0.03)


@pytest.mark.parametrize("separator", [" ", ""], ids=["english", "chinese"])
@pytest.mark.parametrize("noise", [0.01, 0.02, 0.03, 0.05, 0.1])
def test_texts_meet_as_often_as_their_exact_similarity_says(separator: str, noise: float) -> None:
    rng = random.Random(f"{separator}{noise}")
    spaced = separator == " "
    alphabet = [f"word{number}" for number in range(3000)] if spaced else [chr(0x4E00 + i) for i in range(3000)]
    texts, expected = [], []
    for _ in range(1500):
        first = rng.choices(alphabet, k=120)
        second = [rng.choice(alphabet) if rng.random() < noise else word for word in first]
        sets = [{tuple(words[i : i + 5]) for i in range(116)} for words in (first, second)]
        similar = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        expected.append(1 - (1 - similar**8) ** 16)
        texts += [separator.join(first), separator.join(second)]
    found, _ = band_hashes(*shingles(texts, 5), 16, 8)
    assert (found[::2] == found[1::2]).any(axis=1).mean() == pytest.approx(np.mean(expected), abs=0.03)
    met = (found[::2][:-1] == found[1::2][1:]).any(axis=1)
    assert not met.any(), "texts that have nothing to do with each other"
