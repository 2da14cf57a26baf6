"""From files to clean documents: the recipe's steps, phase by phase, each phase spread over Ray, each drop counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.artifact import locate
from manta.data import cleaning, sources, work
from manta.data.cleaning import decontaminate
from manta.data.corpus import Context, Corpus, CorpusStep, exact_dedup, gather
from manta.data.linededup import line_dedup
from manta.data.neardup import near_dedup
from manta.data.spread import Item, spread
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.storage import Folder

CORPUS_STEPS: dict[str, CorpusStep] = {
    "exact_dedup": exact_dedup,
    "near_dedup": near_dedup,
    "line_dedup": line_dedup,
}
HELDOUT = "work/corpus/heldout.parquet"


@dataclass(frozen=True)
class Refined:
    """The clean corpus, and the figures that account for every document that was read."""

    corpus: Corpus
    figures: dict[str, Any]


def refine(recipe: PrepareRecipe, folder: Folder, at_once: int, progress: Progress) -> Refined:
    """Run the phases. Units that an earlier attempt finished are not done again."""
    data = recipe.data
    account = _Account()
    heldout = _heldout(recipe, folder, progress)
    corpus: Corpus | None = None
    for number, phase in enumerate(cleaning.phases(data.steps)):
        if corpus is None or phase.local or corpus.remove is not None:
            items = _units(recipe, folder, number, phase, corpus, heldout)
            done = _run(folder, number, items, at_once, progress)
            account.add(done)
            if number == 0:
                _gather_quarantine(folder, done, progress)
                _refuse_quarantine(data.max_quarantined, done)
            _refuse_nothing(account, done)
            corpus = gather(folder, [part["path"] for summary in done for part in summary["parts"]])
        if phase.corpus is not None:
            name = f"{number}-{phase.corpus.step}"
            before = corpus
            corpus = CORPUS_STEPS[phase.corpus.step](
                corpus, phase.corpus, Context(folder, name, at_once, data.keep_dropped, progress)
            )
            account.drop(phase.corpus.step, before, corpus)
            progress.note(f"{phase.corpus.step}: {corpus.num_kept:,} of {before.num_kept:,} documents stay")
    assert corpus is not None
    return Refined(corpus, account.figures(corpus))


def _units(
    recipe: PrepareRecipe,
    folder: Folder,
    phase_number: int,
    phase: cleaning.Phase,
    corpus: Corpus | None,
    heldout: str | None,
) -> list[Item]:
    """The tasks of a phase. How documents fall into them depends on the files alone, never on how many CPUs there are."""
    common = {
        "folder": folder.url,
        "phase": phase_number,
        "steps": [step.model_dump(mode="json") for step in phase.local],
        "keep_dropped": recipe.data.keep_dropped,
        "remove": corpus.remove if corpus else None,
        "heldout": heldout if any(step.step == "decontaminate" for step in phase.local) else None,
    }
    if corpus is None:
        listed = [source.model_dump(mode="json") for source in recipe.data.sources]
        groups = sources.grouped(sources.list_files(recipe.data.sources))
        return [
            common | {"number": number, "files": [file.as_json() for file in files], "sources": listed}
            for number, files in enumerate(groups)
        ]
    cuts = np.searchsorted(corpus.part[corpus.kept], np.arange(len(corpus.parts) + 1))
    return [
        common | {"number": number, "pieces": corpus.pieces(corpus.kept[start:end])}
        for number, (start, end) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
        if end > start
    ]


def _heldout(recipe: PrepareRecipe, folder: Folder, progress: Progress) -> str | None:
    """Hash the held-out n-grams that the steps look for, once for all tasks. Returns the file's path, None without need."""
    ngrams = sorted({step.ngram for step in recipe.data.steps if step.step == "decontaminate"})
    if not ngrams or recipe.data.heldout is None:
        return None
    if not folder.exists(HELDOUT):
        place = Folder(locate(recipe.data.heldout, recipe.output))
        texts, hashes = decontaminate.gather(place, ngrams, folder, HELDOUT)
        progress.note(f"decontaminate: looking for {hashes:,} n-grams of {texts:,} held-out texts")
    return HELDOUT


def _run(folder: Folder, phase: int, items: list[Item], at_once: int, progress: Progress) -> list[Item]:
    """Do every unit that is not done yet. Returns all summaries in order."""
    done, todo = [], []
    for item in items:
        if folder.exists(marker := work.cleaned_marker(phase, item["number"])):
            done.append(json.loads(folder.read_text(marker)))
        else:
            todo.append(item)
    unit = "files read" if phase == 0 else f"parts of phase {phase} cleaned"
    size = {item["number"]: len(item.get("files", ())) or 1 for item in items}
    total = sum(size.values())
    for summary in spread(work.clean_unit, todo, at_once):
        done.append(summary)
        documents = sum(part["documents"] for one in done for part in one["parts"])
        progress.update(sum(size[one["number"]] for one in done), total, unit, documents=documents)
    return sorted(done, key=lambda summary: int(summary["number"]))


class _Account:
    """Where every document went: counts by source of the first phase, and by reason of all phases."""

    def __init__(self) -> None:
        self.files = self.quarantined = 0
        self.sources: dict[str, Counter[str]] = {}
        self.dropped: Counter[str] = Counter()

    def add(self, done: Sequence[Item]) -> None:
        first = not self.sources
        for summary in done:
            self.files += summary["files"]
            self.quarantined += summary["quarantined"]
            for source, counts in summary["sources"].items():
                mine = self.sources.setdefault(source, Counter())
                drops = {key: count for key, count in counts.items() if key not in ("read", "chars")}
                self.dropped.update(drops)
                mine.update({f"dropped.{key}": count for key, count in drops.items()})
                if first:
                    mine.update(read=counts["read"], chars=counts["chars"])

    def drop(self, reason: str, before: Corpus, after: Corpus) -> None:
        """Count what a step on the corpus took out, by source."""
        lost = np.bincount(before.source[before.kept], minlength=len(before.sources)) - np.bincount(
            after.source[after.kept], minlength=len(before.sources)
        )
        for source, count in zip(before.sources, lost.tolist(), strict=True):
            if count:
                self.sources[source][f"dropped.{reason}"] += count
                self.dropped[reason] += count

    def figures(self, corpus: Corpus) -> dict[str, Any]:
        for source, counts in self.sources.items():
            numbers = [number for number, known in enumerate(corpus.sources) if known == source]
            mine = corpus.kept[np.isin(corpus.source[corpus.kept], numbers)]
            counts.update(kept=len(mine), kept_chars=int(corpus.chars[mine].sum()))
        return {
            "files": self.files,
            "documents_read": sum(counts["read"] for counts in self.sources.values()),
            "documents_kept": corpus.num_kept,
            "duplicates": self.dropped["exact_dedup"] + self.dropped["near_dedup"],
            "dropped": {reason: count for reason, count in sorted(self.dropped.items()) if count},
            "quarantined": self.quarantined,
            "sources": {source: dict(sorted(counts.items())) for source, counts in self.sources.items()},
        }


# --- what cannot go on -----------------------------------------------------------------------------------------------


def _gather_quarantine(folder: Folder, done: list[Item], progress: Progress) -> None:
    if count := sum(summary["quarantined"] for summary in done):
        names = [work.quarantine(summary["number"]) for summary in done if summary["quarantined"]]
        folder.write_text("quarantine.jsonl", "".join(map(folder.read_text, names)))
        progress.note(f"{count:,} unreadable files or records are set aside in {folder.url}/quarantine.jsonl")


def _refuse_quarantine(limit: float, done: list[Item]) -> None:
    bad = sum(summary["quarantined"] for summary in done)
    read = sum(counts["read"] for summary in done for counts in summary["sources"].values())
    if read and bad > limit * (bad + read):
        first = next(summary["first_quarantined"] for summary in done if summary["quarantined"])
        raise InputError(
            f"data.max_quarantined = {limit:g}: {bad:,} of {bad + read:,} files or records cannot be read; the first: {first}: "
            "see quarantine.jsonl, then mend the files or raise the limit"
        )


def _refuse_nothing(account: _Account, done: list[Item]) -> None:
    if any(part["documents"] for summary in done for part in summary["parts"]):
        return
    unreadable = [summary["first_quarantined"] for summary in done if summary["quarantined"]]
    if account.dropped:
        listed = ", ".join(f"{reason} {count}" for reason, count in account.dropped.most_common())
        raise InputError(f"data.sources: no document survives data.steps ({listed}): loosen these rules")
    if unreadable:
        raise InputError(
            f"data.sources: none of {account.files} files can be read; the first: {unreadable[0]}: check path and format"
        )
    raise InputError(f"data.sources: the {account.files} files hold no text: check path, format and text_column")
