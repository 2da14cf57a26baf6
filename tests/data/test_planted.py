"""All steps in one recipe, on a corpus of which every document's fate is known: nothing else is dropped, nothing less."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from manta import recipe as recipes
from manta.data import cleaning, exchange, refine, shards, sources, work
from manta.data.refine import Refined
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.sections.prepare import Step
from manta.storage import Folder
from tests.data import planting
from tests.data.laying import Laid, lay

LANGUAGES = [["en"], ["zh"], ["en", "zh"]]
STEPS = TypeAdapter(list[Step]).validate_python(planting.STEPS)


# --- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_step_and_every_rule_is_planted(lang: str) -> None:
    schema = TypeAdapter(Step).json_schema()
    kinds = {name: ref.rpartition("/")[2] for name, ref in schema["discriminator"]["mapping"].items()}
    assert {step.step for step in STEPS} == set(kinds)
    removing = {"end_punctuation", "min_words_per_line", "remove_javascript", "remove_policy"}
    aside = {"step", "short_line", *removing}
    rules = {
        f"{name}.{rule}"
        for name in ("length", "letters", "repeated_lines", "gopher_quality", "gopher_repetition", "c4_quality", "fineweb_quality")
        for rule in set(schema["$defs"][kinds[name]]["properties"]) - aside
    }  # fmt: skip
    rules |= {"language.keep", "language.unknown", "line_dedup.nothing_left", "decontaminate.ngram"}
    rules |= {f"pii.{kind}" for kind in planting.PERSONAL}
    assert {planted.reason for planted in planting.breaking(lang)} == rules - planting.NEVER[lang]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_what_is_planted_breaks_its_own_step_and_no_other(lang: str) -> None:
    """Each step by itself, after those that change texts."""
    alone = [step for step in STEPS[3:] if step.step in cleaning.STEPS]
    for planted in [*planting.breaking(lang), *planting.clean(lang)]:
        ready = cleaning.apply(cleaning.Batch([planted.text], [planted.stated]), STEPS[:2])
        told = cleaning.apply(cleaning.Batch(ready.texts, ready.languages), [STEPS[2]])
        found = [cleaning.apply(cleaning.Batch(ready.texts, told.languages), [step]).reasons[0] for step in alone]
        broken = {reason for reason in [*told.reasons, *found] if reason}
        if planted.reason and planted.reason.partition(".")[0] in cleaning.STEPS:
            assert planted.reason in broken
            broken.remove(planted.reason)
        allowed = planting.ALSO.get(planted.reason or "", set())
        assert {reason.partition(".")[0] for reason in broken} <= allowed, (planted.reason, planted.text[:80])


# --- the run ---------------------------------------------------------------------------------------------------------


def run(laid: Laid, output: Path) -> tuple[Refined, Folder]:
    recipe = recipes.validate(laid.recipe(output))
    assert isinstance(recipe, PrepareRecipe)
    folder = Folder(output / "shards")
    return refine.refine(recipe, folder, 2, Progress(quiet=True)), folder


def rows(folder: Folder, pattern: str) -> list[dict[str, Any]]:
    assert folder.local_path is not None
    found = sorted(folder.local_path.glob(pattern))
    return [row for path in found for row in shards.read_table(Folder(path.parent), path.name).to_pylist()]


def check(laid: Laid, found: Refined, folder: Folder) -> None:
    """Every document, every unreadable line and every figure is as planned."""
    reasons = {name: planted.reason for name, planted in laid.documents.items() if planted.reason}
    dropped = rows(folder, "dropped/*.parquet")
    assert {row["id"]: row["reason"] for row in dropped} == reasons
    assert len(dropped) == len(reasons), "each once"
    assert {row["id"]: row["source"] for row in dropped} == {name: laid.source[name] for name in reasons}
    assert {row["id"]: row["detail"] for row in dropped if row["id"] in laid.first} == laid.first

    stay = {name: planted for name, planted in laid.documents.items() if planted.reason is None}
    left = work.take(folder, found.corpus.pieces(found.corpus.kept))
    assert left.column("id").to_pylist() == list(stay)
    assert left.column("text").to_pylist() == [planted.becomes for planted in stay.values()]

    assert found.figures == figures(laid)
    told = [json.loads(line) for line in folder.read_text("quarantine.jsonl").splitlines()]
    assert [(entry["file"], entry["offset"]) for entry in told] == [entry[:2] for entry in laid.unreadable]
    for entry, (_, _, says) in zip(told, laid.unreadable, strict=True):
        assert entry["reason"].startswith(says)


def figures(laid: Laid) -> dict[str, Any]:
    by_source: dict[str, Counter[str]] = {source["path"]: Counter() for source in laid.sources}
    for name, planted in laid.documents.items():
        counts = by_source[laid.source[name]]
        counts.update(read=1, chars=len(planted.text), kept=0, kept_chars=0)
        if planted.reason is None:
            counts.update(kept=1, kept_chars=len(planted.becomes))
        else:
            counts[f"dropped.{planted.reason}"] += 1
    reasons = Counter(planted.reason for planted in laid.documents.values() if planted.reason)
    return {
        "files": len({name.partition("#")[0] for name in laid.documents}),
        "documents_read": len(laid.documents),
        "documents_kept": len(laid.documents) - reasons.total(),
        "duplicates": reasons["exact_dedup"] + reasons["near_dedup"],
        "dropped": dict(sorted(reasons.items())),
        "quarantined": len(laid.unreadable),
        "sources": by_source,
    }


def each_file_alone(files: Sequence[Any]) -> list[list[Any]]:
    return [[file] for file in files]


@pytest.mark.parametrize("languages", LANGUAGES, ids="+".join)
def test_every_document_meets_its_fate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, languages: list[str]
) -> None:
    laid = lay(tmp_path / "corpus", languages)
    found, folder = run(laid, tmp_path / "whole")
    check(laid, found, folder)
    # The same in many small tasks, done in order; above they are few, and the last comes first.
    monkeypatch.setattr(sources, "grouped", each_file_alone)
    monkeypatch.setattr(work, "PIECE_CHARS", 5_000)
    monkeypatch.setattr(exchange, "PARTITION_PAIRS", 300)
    for module in (exchange, refine):
        monkeypatch.setattr(module, "spread", in_order)
    again, other = run(laid, tmp_path / "pieces")
    assert len(again.corpus.parts) > 2 * len(found.corpus.parts)
    check(laid, again, other)
    assert again.corpus.fingerprint() == found.corpus.fingerprint()


def in_order(function: Callable[[Any], Any], items: Sequence[Any], at_once: int) -> Any:
    return map(function, items)


@pytest.mark.integration
def test_every_document_meets_its_fate_over_ray(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "grouped", each_file_alone)
    laid = lay(tmp_path / "corpus", ["en", "zh"])
    check(laid, *run(laid, tmp_path))
