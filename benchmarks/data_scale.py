"""Does preparing ten times the text take ten times as long, in the same memory?"""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import corpus
import harness

YARDSTICK = Path(__file__).resolve().parent / "yardsticks" / "timed_prepare.py"
TIMES = 10
BASE_MB = 4  # of different text, which every machine has; the rest are copies with other words
CPUS = 2
FILES = 16  # of each tenth
LITTLE = 40  # documents that stand for no text
SWAPPED = 16  # words that take each other's places
TRAIN_CHARS = 20_000_000  # as recipes have it unless they say otherwise
LEAST_KEPT = 0.98  # of TIMES as many documents: what is lost by chance in a text's copies, not between them
WORD = re.compile("([A-Za-z]{2,})")


def main() -> None:
    with harness.bench("data_scale", __doc__) as bench:
        measure(bench, megabytes=10 if bench.quick else 70, repeats=1 if bench.quick else 2)


def measure(bench: harness.Bench, megabytes: int, repeats: int) -> None:
    """Put into the row what preparing `megabytes` (10^6 bytes) of text takes, and what TIMES as many.

    Seconds are those that grow with the text: Ray's start and the tokenizer's training are left out, and so is what a
    run takes besides when there is next to no text, such as the start of each phase.
    """
    texts = write(megabytes)
    place = harness.SCRATCH / "scale"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    # Twice the text that the tokenizer learns from must be there, so that both runs train it on as much.
    train_chars = min(TRAIN_CHARS, megabytes * 10**6 // 2)
    sources = {"none": "little.jsonl", "one": "0-*.jsonl", "ten": "?-*.jsonl"}
    competitors = {}
    for name, pattern in sources.items():
        path = _recipe(place / name, f"{texts}/{pattern}", train_chars)
        competitors[name] = harness.command([sys.executable, YARDSTICK, path], timeout=7200)
    runs = bench.alternate(competitors, repeats, label="scale")
    whole = [taken for taken in zip(*runs.values(), strict=True) if not any(run.error for run in taken)]
    for _, one, ten in whole:
        _check_copies(one, ten)
    bench.settings["scale"] = {"megabytes": [megabytes, TIMES * megabytes], "train_chars": train_chars} | {
        key: [run.value(key) for run in whole[0][1:]] if whole else None
        for key in ("chars_per_token", "documents_kept")
    }
    note = f"{TIMES * megabytes} MB of text against {megabytes} MB, the whole process tree"
    bench.ratio("peak_memory_growth", runs, of="ten", over="one", key="peak_bytes", note=note)
    for name, size in (("one", megabytes), ("ten", TIMES * megabytes)):
        peaks = [run.peak_bytes / 1e6 for run in runs[name] if not run.error]
        bench.figure(f"peak_memory_mb_{name}", peaks, "MB", f"{size} MB of text")
    for what, seconds in (("time", _wall_s), ("cpu", _cpu_s)):
        grown = [(seconds(one) - seconds(none), seconds(ten) - seconds(none)) for none, one, ten in whole]
        note = f"{what} for each MB, at {TIMES * megabytes} MB against {megabytes} MB, without what is done once"
        bench.figure(f"{what}_linearity", [ten / TIMES / one for one, ten in grown], "x", note)
        each = [ten / (TIMES * megabytes) for _, ten in grown]
        bench.figure(f"prepare_{what}_s_per_mb", each, "s", f"of {TIMES * megabytes} MB, on {CPUS} CPUs")
    shutil.rmtree(place)


def _wall_s(run: harness.Run) -> float:
    return run.value("stage_s") - run.value("training_s")


def _cpu_s(run: harness.Run) -> float:
    return run.cpu_s - run.value("once_cpu_s")


def _check_copies(one: harness.Run, ten: harness.Run) -> None:
    """Raise RuntimeError if documents of different copies were taken for duplicates: then less work was measured."""
    expected = TIMES * one.value("documents_kept")
    if ten.value("documents_kept") < LEAST_KEPT * expected:
        raise RuntimeError(f"{ten.value('documents_kept'):,.0f} documents were kept, not about {expected:,.0f}")


def _recipe(folder: Path, sources: str, train_chars: int) -> Path:
    """The default steps and near-duplicates, on disk beside what they will make."""
    steps = [
        {"step": name} for name in ("normalise", "length", "letters", "repeated_lines", "exact_dedup", "near_dedup")
    ]
    wanted = {
        "kind": "prepare",
        "name": "scale",
        "output": str(folder),
        "data": {"sources": [{"path": sources, "format": "jsonl"}], "steps": steps},
        "tokenizer": {"train_chars": train_chars},
        "resources": {"cpus": CPUS},
    }
    folder.mkdir()
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps(wanted))
    return path


# --- text ------------------------------------------------------------------------------------------------------------


def write(megabytes: int) -> Path:
    """A folder of TIMES times `megabytes` of English, in files T-NN.jsonl of which each T holds a tenth. Made once."""
    folder = harness.SCRATCH / f"scale-{megabytes}mb"
    if folder.exists():
        return folder
    scratch = folder.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    texts = _copies([text for path in sorted(corpus.english(BASE_MB).glob("*.jsonl")) for text in _read(path)])
    for number in range(TIMES * FILES):
        left = megabytes * 10**6 // FILES
        with (scratch / f"{number // FILES}-{number % FILES:02}.jsonl").open("w", encoding="utf-8") as file:
            while left > 0:
                text = next(texts)
                file.write(_line(text))
                left -= len(text.encode())
    little = [next(texts) for _ in range(LITTLE)]
    (scratch / "little.jsonl").write_text("".join(_line(text) for text in little), encoding="utf-8")
    scratch.replace(folder)
    return folder


def _line(text: str) -> str:
    return json.dumps({"text": text}, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def _copies(texts: list[str]) -> Iterator[str]:
    """The texts again and again, without end, in each round with other words of about the same length and frequency.

    So every round has the statistics of the first, but no five words in a row in common with it. A word is swapped
    within SWAPPED words of its length and case that are next to it in frequency, in an order drawn for the round.
    """
    counts = Counter(word for text in texts for word in WORD.findall(text))
    alike: dict[tuple[int, bool], list[str]] = {}
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        alike.setdefault((len(word), word[0].isupper()), []).append(word)
    groups = [words[i : i + SWAPPED] for words in alike.values() for i in range(0, len(words), SWAPPED)]
    for seed in range(10**6):
        draw = random.Random(seed)
        swapped: dict[str, str] = {}
        for group in groups:
            swapped.update(zip(group, draw.sample(group, len(group)), strict=True))
        for text in texts:
            yield "".join([swapped.get(piece, piece) for piece in WORD.split(text)])


if __name__ == "__main__":
    main()
