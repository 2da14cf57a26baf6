"""Layouts: nothing of the text is lost, repeated or reordered unseen, and documents in one row stay apart."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from manta.data.layouts import LAYOUTS, Documents, Rows, best_fit, denoising, sentence_pairs
from manta.data.tokenizer import Facts
from manta.errors import InputError
from manta.sections.layout import Layout

CLS, EOS, PAD, MARK = 1, 2, 0, 3
KNOWN = Facts(vocab_size=200, eos_id=EOS, bos_id=CLS, pad_id=PAD)
PLAIN = Facts(vocab_size=200, eos_id=EOS, bos_id=None, pad_id=PAD)
SENTINELS = tuple(range(150, 190))

# Each letter is a token; texts of these never make a special id.
texts = st.lists(st.text("abcdefgh", max_size=14), max_size=12)


def encode(text: str) -> list[int]:
    return [ord(letter) - 22 for letter in text if not letter.isspace()]


def lay(documents: list[str], seq_len: int, known: Facts = KNOWN, seed: int = 0, **layout: Any) -> Rows:
    settings: Any = TypeAdapter(Layout).validate_python(layout)
    return LAYOUTS[settings.kind](Documents(documents, [""] * len(documents), encode, known, seq_len, seed), settings)


def closed(documents: list[str]) -> list[list[int]]:
    return [[*encode(text), EOS] for text in documents]


def opened(documents: list[str]) -> list[list[int]]:
    return [[CLS, *ids] for ids in closed(documents)]


def pieces(rows: Rows) -> list[list[int]]:
    """What the positions set apart, padding left out."""
    found = []
    for ids, places in zip(rows.columns["input_ids"], rows.columns["position_ids"], strict=True):
        for part in np.split(ids, np.flatnonzero(places == 0)[1:]):
            if part.tolist() != [PAD]:
                found.append(part.tolist())
    return found


# --- concat ----------------------------------------------------------------------------------------------------------


@given(texts, st.integers(1, 9))
def test_concat_rows_and_the_rest_are_the_documents_each_closed(documents: list[str], seq_len: int) -> None:
    rows = lay(documents, seq_len, kind="concat", isolate=False)
    ids = rows.columns["input_ids"]
    assert set(rows.columns) == {"input_ids"}
    assert ids.dtype == np.int32 and ids.shape[1:] == (seq_len,)
    stream = [token for document in closed(documents) for token in document]
    assert ids.reshape(-1).tolist() == stream[: ids.size]
    assert rows.tokens == len(stream)
    assert rows.left_over == len(stream) - ids.size < seq_len
    assert rows.padding == 0


@given(texts, st.integers(1, 9))
def test_concat_restarts_positions_at_documents_and_rows(documents: list[str], seq_len: int) -> None:
    rows = lay(documents, seq_len, kind="concat")
    begins = np.cumsum([0, *map(len, opened(documents))]).tolist()
    for place, position in enumerate(rows.columns["position_ids"].reshape(-1).tolist()):
        begin = max(begin for begin in [*begins, place // seq_len * seq_len] if begin <= place)
        assert position == place - begin
    assert rows.columns["position_ids"].dtype == np.int32


def test_concat_counts_the_documents_it_cuts() -> None:
    # Tokens with their end: 4, 4, 2, 5. The one row of 8 holds the first two whole; there is no other.
    cut = [lay(["aaa", "bbb", "c", "dddd"], n, known=PLAIN, kind="concat").documents_cut for n in (8, 5, 3)]
    assert cut == [2, 1, 4]


def test_documents_that_see_no_other_are_opened_too() -> None:
    """So that a model learns how documents begin; in one stream the end of the document before does that."""
    assert lay(["ab"], 4, kind="concat").columns["input_ids"].tolist() == [[CLS, *encode("ab"), EOS]]
    assert lay(["ab"], 3, kind="concat", isolate=False).columns["input_ids"].tolist() == [[*encode("ab"), EOS]]
    assert lay(["ab"], 3, known=PLAIN, kind="concat").columns["input_ids"].tolist() == [[*encode("ab"), EOS]]


# --- best fit --------------------------------------------------------------------------------------------------------


@given(texts, st.integers(2, 16))
def test_best_fit_holds_every_document_once_and_cuts_only_the_long_ones(documents: list[str], seq_len: int) -> None:
    rows = lay(documents, seq_len, kind="best_fit")
    wanted = Counter(
        tuple(document[at : at + seq_len]) for document in opened(documents) for at in range(0, len(document), seq_len)
    )
    assert Counter(map(tuple, pieces(rows))) == wanted
    assert rows.padding == int((rows.columns["input_ids"] == PAD).sum())
    assert rows.columns["input_ids"].size == rows.tokens + rows.padding
    assert rows.documents_cut == sum(len(document) > seq_len for document in opened(documents))
    assert rows.left_over == 0


def test_the_padding_of_best_fit_is_made_of_documents_of_one_token() -> None:
    rows = lay(["aaa", "b"], 10, kind="best_fit")
    assert rows.columns["input_ids"][0].tolist() == [CLS, *encode("aaa"), EOS, CLS, *encode("b"), EOS, PAD, PAD]
    assert rows.columns["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 0]


@given(st.lists(st.integers(1, 20), max_size=60))
def test_assigned_bins_hold_what_they_can(sizes: list[int]) -> None:
    bins = best_fit.assign(sizes, 20)
    assert sorted(item for members in bins for item in members) == list(range(len(sizes)))
    filled = [sum(sizes[item] for item in members) for members in bins]
    assert all(0 < total <= 20 for total in filled)
    # Decreasing best fit is never worse than 11/9 of the best packing, and a bin, and that needs sum / 20 at least.
    big = sum(size > 10 for size in sizes)
    assert len(bins) <= max(1, math.ceil(11 / 9 * max(sum(sizes) / 20, big)) + len(sizes) // 6 + 1)
    # No two bins could be one: an item that opened a bin fitted in none of those before.
    assert all(filled[i] + sizes[bins[j][0]] > 20 for j in range(len(bins)) for i in range(j))


def test_best_fit_takes_the_fullest_row_that_is_enough() -> None:
    # 7 and 6 open bins of 10; 3 fits both and goes to the one with room 3, so that 4 still fits the other.
    assert best_fit.assign([7, 6, 4, 3], 10) == [[0, 3], [1, 2]]


def test_best_fit_cuts_less_and_pads_little_on_documents_like_real_ones() -> None:
    lengths = np.random.default_rng(0).lognormal(4.5, 1.0, 2000).astype(int) + 1
    documents = ["a" * int(length) for length in lengths]
    streamed, fitted = lay(documents, 512, kind="concat"), lay(documents, 512, kind="best_fit")
    assert fitted.padding / fitted.columns["input_ids"].size < 0.01
    assert fitted.documents_cut < streamed.documents_cut / 5


# --- sentence pairs --------------------------------------------------------------------------------------------------

# Sentence n of document d is spelt by letters of its own, so that a token tells where it is from.
STORIES = [" ".join(f"{chr(97 + 4 * d + s % 4) * (3 + s % 5)}." for s in range(30)) for d in range(6)]


def halves(rows: Rows, number: int) -> tuple[list[int], list[int], int]:
    columns = {name: values[number] for name, values in rows.columns.items()}
    end = int(columns["attention_mask"].sum())
    ids, types = columns["input_ids"][:end], columns["token_type_ids"][:end]
    assert (columns["input_ids"][end:] == PAD).all() and (columns["attention_mask"][end:] == 0).all()
    assert (columns["token_type_ids"][end:] == 0).all()
    first, second = ids[types == 0].tolist(), ids[types == 1].tolist()
    assert first[0] == CLS and first[-1] == EOS == second[-1]
    assert types.tolist() == sorted(types.tolist())
    return first[1:-1], second[:-1], int(columns["next_sentence_label"])


def story(ids: list[int]) -> set[int]:
    return {(token - 75) // 4 for token in ids if token != encode(".")[0]}


def test_pairs_say_truly_whether_the_second_half_follows() -> None:
    rows = lay(STORIES, 64, kind="sentence_pairs")
    streams = [encode(text) for text in STORIES]
    labels = []
    for number in range(rows.num_rows):
        first, second, label = halves(rows, number)
        labels.append(label)
        (source,), (other,) = story(first), story(second)
        assert (source == other) == (label == 0)
        if label == 0:
            together = [*first, *second]
            assert any(streams[source][i : i + len(together)] == together for i in range(len(streams[source])))
    assert rows.num_rows > 20
    assert 0.25 < np.mean(labels) < 0.75
    assert rows.columns["next_sentence_label"].shape == (rows.num_rows,)


def test_pairs_use_every_sentence() -> None:
    """Each sentence stands in some pair as its own document's text; what a random half cut short comes again."""
    rows = lay(STORIES, 64, kind="sentence_pairs", short_rows=0.0)
    assert rows.left_over == 0
    seen = Counter[int]()
    for number in range(rows.num_rows):
        first, second, label = halves(rows, number)
        seen.update([*first, *(second if label == 0 else [])])
    assert seen == Counter(token for text in STORIES for token in encode(text))


def test_the_share_of_random_pairs_is_the_one_asked_for() -> None:
    never = lay(STORIES, 64, kind="sentence_pairs", random_next=0.0)
    # A document's last sentence may be alone: only then is its partner of another one.
    assert never.columns["next_sentence_label"].sum() <= len(STORIES)
    always = lay(STORIES, 64, kind="sentence_pairs", random_next=1.0)
    assert always.columns["next_sentence_label"].all()


def test_long_sentences_are_cut_to_the_row_and_counted() -> None:
    rows = lay(["a" * 100 + ". " + "b" * 100 + ".", "c" * 5 + "."], 20, kind="sentence_pairs", random_next=0.0)
    assert rows.columns["input_ids"].shape[1] == 20
    assert rows.left_over == 2 * (101 - 11), "each of the long ones keeps what its partner of 6 leaves of 17"
    assert (rows.columns["attention_mask"].sum(axis=1) <= 20).all()


def test_pairs_are_the_same_for_a_seed_and_others_for_another() -> None:
    a, b, c = (lay(STORIES, 64, seed=seed, kind="sentence_pairs") for seed in (7, 7, 8))
    assert all(np.array_equal(a.columns[name], b.columns[name]) for name in a.columns)
    assert a.columns["input_ids"].tobytes() != c.columns["input_ids"].tobytes()


def test_a_lone_document_gives_only_true_pairs() -> None:
    rows = lay(STORIES[:1], 32, kind="sentence_pairs", random_next=1.0)
    assert rows.num_rows > 3 and not rows.columns["next_sentence_label"].any()


def test_sentences_of_english_and_chinese() -> None:
    assert sentence_pairs.split("Dr. J. Smith came.  He sat\ndown! Why?") == [
        "Dr.",
        "J. Smith came.",
        "He sat",
        "down!",
        "Why?",
    ]
    assert sentence_pairs.split("今天下雨。我们回家吧！“好的。”他说。") == [
        "今天下雨。",
        "我们回家吧！",
        "“好的。”",
        "他说。",
    ]


def test_pairs_need_a_tokenizer_with_special_tokens_and_room() -> None:
    with pytest.raises(InputError, match=r"tokenizer\.type=wordpiece"):
        lay(STORIES, 64, known=Facts(200, EOS, None, PAD), kind="sentence_pairs")
    with pytest.raises(InputError, match=r"data\.seq_len = 4"):
        lay(STORIES, 4, kind="sentence_pairs")


# --- denoising -------------------------------------------------------------------------------------------------------

WITH_SENTINELS = Facts(200, EOS, None, PAD, SENTINELS)
SETTINGS: Any = TypeAdapter(Layout).validate_python({"kind": "denoising"})


def test_lengths_are_those_of_t5() -> None:
    """T5 reads 568 tokens to fill 512 of the encoder and 114 of the decoder (arXiv:1910.10683, section 3.1.4)."""
    found = denoising.noise(SETTINGS, 512, Facts(200, EOS, None, PAD, tuple(range(100))))
    assert (found.tokens, found.input_len, found.target_len) == (568, 512, 114)


@given(st.integers(12, 200), st.floats(0.05, 0.45), st.floats(1.5, 6.0))
def test_every_length_is_filled_exactly(seq_len: int, density: float, mean_span: float) -> None:
    settings: Any = TypeAdapter(Layout).validate_python(
        {"kind": "denoising", "noise_density": density, "mean_span": mean_span}
    )
    found = denoising.noise(settings, seq_len, Facts(200, EOS, None, PAD, tuple(range(500))))
    assert found.input_len == seq_len
    assert found.hidden == max(1, int(found.tokens * density + 0.5))


def restored(inputs: list[int], labels: list[int]) -> list[int]:
    """The row, put together again from what the encoder reads and the decoder learns."""
    spans: dict[int, list[int]] = {}
    for token in labels[:-1]:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    assert list(spans) == list(SENTINELS[: len(spans)])
    assert all(spans.values())
    return [token for place in inputs[:-1] for token in spans.get(place, [place])]


@given(st.integers(12, 80), st.integers(0, 2**40), st.integers(0, 2**63 - 1))
def test_inputs_and_labels_together_are_the_row(seq_len: int, sample: int, seed: int) -> None:
    noise = denoising.noise(SETTINGS, seq_len, WITH_SENTINELS)
    rows = np.random.default_rng(1).integers(10, 140, (3, noise.tokens)).astype(np.int32)
    found = denoising.corrupt(rows, np.array([sample, sample + 1, sample + 2]), seed, noise)
    assert found["input_ids"].shape == (3, seq_len) and found["input_ids"].dtype == np.int32
    assert found["labels"].shape == (3, noise.target_len) and found["labels"].dtype == np.int32
    assert (found["input_ids"][:, -1] == EOS).all() and (found["labels"][:, -1] == EOS).all()
    for number in range(3):
        assert restored(found["input_ids"][number].tolist(), found["labels"][number].tolist()) == rows[number].tolist()


def test_spans_depend_on_the_sample_and_the_seed_alone() -> None:
    noise = denoising.noise(SETTINGS, 64, WITH_SENTINELS)
    row = np.arange(noise.tokens, dtype=np.int32)[None, :] % 100 + 10
    samples = np.arange(40)
    together = denoising.corrupt(np.repeat(row, 40, axis=0), samples, 5, noise)["input_ids"]
    alone = [denoising.corrupt(row, samples[i : i + 1], 5, noise)["input_ids"][0] for i in range(40)]
    assert np.array_equal(together, np.stack(alone))
    assert len({ids.tobytes() for ids in together}) == 40, "no two samples hide the same spans"
    other = denoising.corrupt(np.repeat(row, 40, axis=0), samples, 6, noise)["input_ids"]
    assert not (together == other).all(axis=1).any()


def test_every_division_into_spans_is_equally_likely() -> None:
    """5 hidden tokens in 2 spans: lengths (1,4), (2,3), (3,2), (4,1), a quarter each."""
    parts = denoising._parts(np.arange(8000), 3, 5, 2, use=1)
    assert (parts.sum(axis=1) == 5).all() and (parts > 0).all()
    counts = np.bincount(parts[:, 0], minlength=5)[1:]
    assert (np.abs(counts - 2000) < 5 * math.sqrt(8000 * 0.25 * 0.75)).all()


def test_denoising_refuses_what_it_cannot_do() -> None:
    with pytest.raises(InputError, match=r"hides 28 spans .* 0 sentinels .*tokenizer\.sentinels=100"):
        denoising.noise(SETTINGS, 512, KNOWN)
    with pytest.raises(InputError, match=r"data\.seq_len = 2: rows cannot hide 0.15"):
        denoising.noise(SETTINGS, 2, WITH_SENTINELS)
