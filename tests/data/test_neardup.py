"""Near-duplicates of a whole corpus: what stays, the same however it is spread, stored or interrupted."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import stage
from manta.data import exchange, neardup, shards
from manta.data.corpus import Context, Corpus
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.sections.prepare import NearDedup
from manta.storage import Folder
from tests.data import refining

STEP = NearDedup(step="near_dedup")


def prose(seed: str, words: int = 150) -> str:
    rng = random.Random(seed)
    return " ".join(f"word{rng.randrange(5000)}" for _ in range(words))


def hanzi(seed: str, chars: int = 200) -> str:
    rng = random.Random(seed)
    return "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(chars))


# One word (character) in the middle is another: five 5-grams of each are new, a Jaccard similarity above 0.93.
ENGLISH, CHINESE = prose("first"), hanzi("first")
NEAR_ENGLISH = " ".join("other" if number == 70 else word for number, word in enumerate(ENGLISH.split()))
NEAR_CHINESE = CHINESE[:90] + "吃" + CHINESE[91:]
# number -> (text, number of the one that stays in its place)
PLANTED = [
    (ENGLISH, 0),
    (CHINESE, 1),
    (prose("alone"), 2),
    ("too short", 3),
    (NEAR_CHINESE, 1),
    (hanzi("alone"), 5),
    ("too short", 6),
    (NEAR_ENGLISH, 0),
    (ENGLISH.upper().replace(" ", ", "), 0),
    (CHINESE[::-1], 9),
    (" ".join(reversed(ENGLISH.split())), 10),
]
STAY = [number for number, (_, first) in enumerate(PLANTED) if number == first]


@pytest.fixture(autouse=True)
def _without_ray(request: pytest.FixtureRequest) -> None:
    if "integration" not in request.keywords:
        request.getfixturevalue("without_ray")


def stored(folder: Folder, texts: list[str], each: int = 4) -> tuple[Corpus, Context]:
    """The texts as cleaned parts of `each` documents, and where the step works."""
    return refining.stored(folder, texts, range(each, len(texts), each)), refining.context(folder, "near_dedup")


def planted(folder: Folder, each: int = 4) -> tuple[Corpus, Context]:
    return stored(folder, [text for text, _ in PLANTED], each)


def contents(folder: Folder) -> dict[str, Any]:
    below = folder / "work" / "corpus"
    return {name: shards.read_table(below, name).to_pydict() for name in below.files()}


def test_the_first_of_each_cluster_stays(tmp_path: Path) -> None:
    corpus, context = planted(Folder(tmp_path))
    assert neardup.near_dedup(corpus, STEP, context).kept.tolist() == STAY
    rows = shards.read_table(context.folder, "dropped/0-near_dedup.parquet").to_pylist()
    assert [(row["id"], row["detail"]) for row in rows] == [
        (f"d{number}", f"d{first}") for number, (_, first) in enumerate(PLANTED) if number != first
    ]
    assert {row["reason"] for row in rows} == {"near_dedup"}


def test_the_settings_count(tmp_path: Path) -> None:
    texts = [ENGLISH, " ".join("other" if n % 8 == 0 else word for n, word in enumerate(ENGLISH.split()))]
    for name, step, stay in (
        ("default", STEP, [0, 1]),
        ("loose", STEP.model_copy(update={"rows": 1}), [0]),
        ("short", STEP.model_copy(update={"ngram": 1, "rows": 4}), [0]),
        ("few", STEP.model_copy(update={"bands": 1, "rows": 8}), [0, 1]),
    ):
        assert neardup.near_dedup(*with_step(Folder(tmp_path / name), texts, step)).kept.tolist() == stay, name


def with_step(folder: Folder, texts: list[str], step: NearDedup) -> tuple[Corpus, NearDedup, Context]:
    corpus, context = stored(folder, texts)
    return corpus, step, context


def test_a_chain_of_near_duplicates_is_one_cluster(tmp_path: Path) -> None:
    words = prose("chain", 1000).split()
    texts = [" ".join(words[start : start + 400]) for start in range(0, 320, 8)]
    assert neardup.near_dedup(*with_step(Folder(tmp_path / "all"), texts, STEP)).kept.tolist() == [0]
    assert neardup.near_dedup(*with_step(Folder(tmp_path / "ends"), [texts[0], texts[-1]], STEP)).num_kept == 2


def test_only_documents_that_still_stand_count(tmp_path: Path) -> None:
    corpus, context = planted(Folder(tmp_path), each=3)
    stands = np.array([3, 4, 6, 7, 8])
    found = neardup.near_dedup(replace(corpus, kept=stands), STEP, context)
    assert found.kept.tolist() == [3, 4, 6, 7], "4 and 7 are the first of what is left"


@pytest.mark.parametrize("each", [1, 4, 11])
@pytest.mark.parametrize("pairs", [7, 1 << 24])
def test_parts_and_partitions_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, pairs: int
) -> None:
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", pairs)
    corpus, context = planted(Folder(tmp_path), each)
    assert neardup.near_dedup(corpus, STEP, context).kept.tolist() == STAY
    partitions = len([name for name in context.folder.files() if "partition-" in name])
    assert partitions == (1 if pairs > 1000 else -(-16 * 11 // 7)), "by the number of documents"


def test_tasks_in_another_order_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", 50)
    for name, order in (("a", reversed), ("b", iter)):
        monkeypatch.setattr(exchange, "spread", lambda function, items, _, order=order: map(function, order(items)))
        corpus, context = planted(Folder(tmp_path / name))
        neardup.near_dedup(corpus, STEP, context)
        found.append(contents(context.folder))
    assert found[0] == found[1]


@pytest.mark.parametrize("survive", [0, 1, 2, 3, 5, 6])
def test_a_kill_anywhere_costs_only_what_was_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survive: int
) -> None:
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", 45)  # 3 parts, then 4 partitions
    corpus, context = planted(Folder(tmp_path / "whole"))
    neardup.near_dedup(corpus, STEP, context)
    done: list[str] = []

    def until_killed(function: Callable[[Any], Any], items: Sequence[Any], at_once: int) -> Iterator[Any]:
        for item in items:
            if len(done) == survive:
                raise KeyboardInterrupt
            yield function(item)
            done.append(item["output"])

    again, broken = planted(Folder(tmp_path / "killed"))
    monkeypatch.setattr(exchange, "spread", until_killed)
    with pytest.raises(KeyboardInterrupt):
        neardup.near_dedup(again, STEP, broken)
    before, survive = list(done), 99
    assert neardup.near_dedup(again, STEP, broken).kept.tolist() == STAY
    assert len(done) == len(set(done)) == 7
    assert done[: len(before)] == before
    assert contents(broken.folder) == contents(context.folder)


def test_everything_goes_through_the_folder_of_any_filesystem() -> None:
    corpus, context = planted(Folder(f"memory://{uuid.uuid4().hex}"))
    assert neardup.near_dedup(corpus, STEP, context).kept.tolist() == STAY


def test_joined_edges_are_connected_components() -> None:
    rng = np.random.default_rng(0)
    for nodes, count in ((2000, 0), (2000, 300), (2000, 1500), (50, 400)):
        edges = rng.integers(0, nodes, size=(count, 2))
        first = list(range(nodes))
        for _ in range(nodes):
            before = list(first)
            for a, b in edges.tolist():
                first[a] = first[b] = min(first[a], first[b])
            if before == first:
                break
        expected = [[node, low] for node, low in enumerate(first) if node != low]
        assert neardup.join(edges).tolist() == expected
        half = neardup.join(np.concatenate([neardup.join(edges[: count // 3]), edges[count // 3 :]]))
        assert half.tolist() == expected


@pytest.mark.parametrize("each", [7, 30, 400])
@pytest.mark.parametrize("pairs", [100, 1 << 24])
def test_a_hash_that_all_share_costs_a_pair_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, pairs: int
) -> None:
    """Signatures at random: some documents meet, and two thirds of them in one band."""
    rng = np.random.default_rng(each)
    signatures = rng.integers(0, 2**64, size=(400, 4), dtype=np.uint64)
    signatures[:, :2] = np.sort(rng.integers(0, 2**64, size=5000, dtype=np.uint64))[
        rng.integers(0, 5000, size=(400, 2))
    ]
    hot = np.flatnonzero(rng.random(400) < 2 / 3)
    signatures[hot, 3] = 7
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", pairs)
    monkeypatch.setattr(neardup, "shingles", lambda texts, ngram: (texts, None))
    monkeypatch.setattr(
        "manta.data.minhash.band_hashes",
        lambda texts, _, bands, rows: (signatures[[int(text) for text in texts]], np.arange(len(texts))),
    )
    corpus, context = stored(Folder(tmp_path), [str(number) for number in range(400)], each)
    corpus = replace(corpus, kept=np.flatnonzero(rng.random(400) < 0.9))
    found = neardup.near_dedup(corpus, STEP.model_copy(update={"bands": 4}), context)
    first = clusters(signatures, corpus.kept.tolist())
    assert found.kept.tolist() == [number for number in corpus.kept.tolist() if first[number] == number]
    dropped = shards.read_table(context.folder, "dropped/0-near_dedup.parquet").to_pylist()
    assert {row["id"]: row["detail"] for row in dropped} == {
        f"d{number}": f"d{low}" for number, low in first.items() if number != low
    }
    tables = {name: table for name, table in contents(context.folder).items() if "/part-" in f"/{name}"}
    for table in tables.values():
        hashes = [number for partition in table["hash"] for number in partition]
        assert len(hashes) == len(set(hashes))
    assert len(tables) == -(-400 // each)


def clusters(signatures: Any, documents: list[int]) -> dict[int, int]:
    """The first document of each one's cluster, by union and find."""
    first = {number: number for number in documents}

    def find(number: int) -> int:
        while first[number] != number:
            number = first[number]
        return number

    holders: dict[int, int] = {}
    for number in documents:
        for band in signatures[number].tolist():
            one, two = find(holders.setdefault(band, number)), find(number)
            first[max(one, two)] = min(one, two)
    return {number: find(number) for number in documents}


# --- with Ray --------------------------------------------------------------------------------------------------------


def recipe_for(corpus: Path, output: Path, cpus: int) -> PrepareRecipe:
    steps: list[dict[str, Any]] = [{"step": name} for name in ("normalise", "exact_dedup", "line_dedup", "near_dedup")]
    steps[2]["max_documents"] = 3
    made = refining.recipe(
        output, f"{corpus}/*.jsonl", steps, validation_fraction=0.2, seq_len=64, shard_tokens=100_000
    )
    raw = made.model_dump() | {"tokenizer": {"vocab_size": 512}, "resources": {"cpus": cpus}}
    return PrepareRecipe.model_validate(raw)


@pytest.mark.integration
def test_the_stage_makes_the_same_of_planted_texts_with_one_cpu_and_two(ray_session: None, tmp_path: Path) -> None:
    footer = "This page is part of a collection; all its pages end like this one."
    corpus = tmp_path / "documents"
    corpus.mkdir()
    for name, numbers in (("a", range(60)), ("b", range(60, 120))):
        texts = [f"{prose(f'page {number}')}\n{footer}" for number in numbers]
        texts += [text.replace("word1", "term1", 1) for text in texts[:10]]
        (corpus / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = [
        stage.run(recipe_for(corpus, tmp_path / f"runs{cpus}", cpus), Progress(quiet=True)).artifact for cpus in (1, 2)
    ]
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].manifest["content"] == made[1].manifest["content"]
    figures = made[0].metrics
    assert (figures["documents_read"], figures["documents_kept"]) == (140, 120)
    assert figures["dropped"] == {"near_dedup": 20}
    rows = [
        row
        for path in sorted(Path(made[0].folder.url).glob("documents/*.parquet"))
        for row in shards.read_table(Folder(path.parent), path.name).to_pylist()
    ]
    assert len(rows) == 120
    assert not any(footer in row["text"] for row in rows)
    assert all("word" in row["text"] for row in rows)
