"""How quickly a model answers beside its base: each is loaded in a process of its own, and they take turns on the same threads.

A turn asks for one new token and then for all of them: what the second takes longer is the time of the further tokens, so
reading and writing are told apart. Models with heads answer in one pass, and what is counted are requests.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from manta import isolate
from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import bootstrap, engines, latency
from manta.schema import EvaluateRecipe
from manta.sections.speed import Speed
from manta.storage import Folder

FILE = "work/speed.json"
DISTURBED = 0.05  # wall time and CPU time that differ by more about a speedup had something running beside them
RESAMPLES, LEVEL = 1000, 0.95


class Seconds(NamedTuple):
    """What a piece of work took, or a moment: by the clock on the wall, and of all threads of the process."""

    wall: float
    cpu: float


Turn = dict[str, dict[str, Seconds]]  # batch -> "first" (token, or pass) and, of models that write, "whole"
Clock = Callable[[], Seconds]
Ask = Callable[[str], Any]  # calls a method of what a process keeps, see `isolate.kept`


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


class Loaded:
    """A model in its process. `answer(rows, count)` gives each row so many new tokens; of heads it is one pass."""

    def __init__(self, source: Resolved, engine: str, dtype: str, settings: Speed, seed: int):
        from manta.models.classes import named
        from manta.models.load import model_config, model_folder, weight_bytes

        self.settings = settings
        self.held = model_folder(source)
        model = self.held.__enter__()
        config = model_config(str(model))
        self.weight_bytes = weight_bytes(model)
        self.writes = named(config).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        needed = settings.prompt_tokens + (settings.new_tokens if self.writes else 0)
        _check_positions(config, needed, source.ref)
        self.rows = latency.random_rows(max(settings.batches), settings.prompt_tokens, seed, int(config["vocab_size"]))
        self.answer = (
            engines.writer(engine, model, dtype, needed, max(settings.batches))
            if self.writes
            else _passes(model, dtype, settings.cpus)
        )

    def turn(self) -> Turn:
        counts = {"first": 1, "whole": self.settings.new_tokens} if self.writes else {"first": 1}
        return timed(self.answer, self.rows, self.settings.batches, counts)

    def usage(self) -> dict[str, float]:
        """What the process has taken so far, and the size of what it loaded."""
        return {**used(), "weight_bytes": self.weight_bytes}


def used() -> dict[str, float]:
    """What this process has taken so far."""
    taken = resource.getrusage(resource.RUSAGE_SELF)
    return {"peak_memory_bytes": taken.ru_maxrss * 1024, "cpu_seconds": round(taken.ru_utime + taken.ru_stime, 1)}


def timed(
    answer: Callable[[Sequence[list[int]], int], Any],
    rows: Sequence[list[int]],
    batches: Sequence[int],
    counts: Mapping[str, int],
    clock: Clock = now,
) -> Turn:
    """One turn: for each batch size and each count of new tokens what it took."""
    found: Turn = {}
    for batch in batches:
        found[str(batch)] = {}
        for name, count in counts.items():
            began = clock()
            answer(rows[:batch], count)
            ended = clock()
            found[str(batch)][name] = Seconds(ended.wall - began.wall, ended.cpu - began.cpu)
    return found


def alternate(asks: Mapping[str, Ask], rounds: int, note: Callable[[str], Any]) -> dict[str, list[Turn]]:
    """The turns of each model: one after the other within each round, so that what disturbs a while disturbs them alike."""
    for ask in asks.values():
        ask("turn")
    turns: dict[str, list[Turn]] = {name: [] for name in asks}
    for number in range(rounds):
        for name, ask in asks.items():
            turns[name].append(ask("turn"))
        note(f"speed: round {number + 1} of {rounds}")
    return turns


def measure(
    recipe: EvaluateRecipe,
    inputs: Mapping[str, Resolved],
    folder: Folder,
    memory: Callable[[Resolved], int],
    note: Callable[[str], Any],
) -> None:
    """Leave the turns of the model and its base in FILE. Call it when nothing else of the evaluation runs."""
    settings = recipe.evaluate.speed
    assert settings is not None
    given = (recipe.evaluate.engine, recipe.evaluate.dtype, settings, recipe.seed)
    models = {"base": inputs.get("model.base"), "model": inputs["model.source"]}
    present = {role: model for role, model in models.items() if model is not None}
    calls = [isolate.Call(Loaded, (model, *given), settings.cpus, memory(model)) for model in present.values()]
    with isolate.kept(calls, f"speed of {recipe.name}") as asks:
        turns = alternate(dict(zip(present, asks, strict=True)), settings.rounds, note)
        usage = {role: ask("usage") for role, ask in zip(present, asks, strict=True)}
    folder.write_text(FILE, json.dumps({"turns": turns, "usage": usage}))


def found(folder: Folder, file: str = FILE) -> dict[str, Any]:
    """What was left in `file`, with the CPU seconds that it took of all processes."""
    kept = dict(json.loads(folder.read_text(file)))
    kept["cpu_seconds"] = sum(taken["cpu_seconds"] for taken in kept["usage"].values())
    return kept


def read(turns: Mapping[str, Any]) -> dict[str, list[Turn]]:
    """Turns by role as JSON holds them."""
    return {
        role: [
            {batch: {name: Seconds(*took) for name, took in parts.items()} for batch, parts in turn.items()}
            for turn in some
        ]
        for role, some in turns.items()
    }


def add(report: dict[str, Any], kept: Mapping[str, Any], settings: Speed, seed: int) -> None:
    """Put the speeds' figures and intervals into an evaluation's report."""
    turns = read(kept["turns"])
    for role, some in turns.items():
        prefix = "base_" if role == "base" else ""
        mine = {**figures(some, settings), "peak_memory_bytes": kept["usage"][role]["peak_memory_bytes"]}
        report["figures"] |= {f"{prefix}{name}": value for name, value in mine.items()}
    if "base" in turns:
        for name, ratios in speedups(turns["model"], turns["base"], settings).items():
            report["figures"][name] = statistics.median(ratios)
            report["intervals"][name] = median_interval(ratios, seed)
    report["speed"] = {"settings": settings.model_dump(mode="json"), "turns": kept["turns"]}


def figures(turns: Sequence[Turn], settings: Speed) -> dict[str, float]:
    """Medians over a model's turns: rates of each batch size, of reading at the largest, and the time to the first token."""
    made: dict[str, float] = {}
    what = "tokens" if _writes(turns) else "requests"
    for batch in settings.batches:
        for clock, of in (("wall", "second"), ("cpu", "cpu_second")):
            made[f"{what}_per_{of}_{batch}"] = statistics.median(rates(turns, batch, clock, settings.new_tokens))
    if not _writes(turns):
        return made
    if 1 in settings.batches:
        made["first_token_ms"] = 1000 * statistics.median(turn["1"]["first"].wall for turn in turns)
    largest = max(settings.batches)
    reading = [turn[str(largest)]["first"] for turn in turns]
    for clock, of in (("wall", "second"), ("cpu", "cpu_second")):
        spent = [getattr(took, clock) for took in reading]
        made[f"prefill_tokens_per_{of}"] = largest * settings.prompt_tokens / statistics.median(spent)
    return made


def speedups(model: Sequence[Turn], base: Sequence[Turn], settings: Speed) -> dict[str, list[float]]:
    """speedup_B by wall time and cpu_speedup_B by CPU time: of each round the model's rate over its base's."""
    made = {}
    for batch in settings.batches:
        for clock, name in (("wall", f"speedup_{batch}"), ("cpu", f"cpu_speedup_{batch}")):
            mine, theirs = (rates(turns, batch, clock, settings.new_tokens) for turns in (model, base))
            made[name] = [one / other for one, other in zip(mine, theirs, strict=True)]
    return made


def rates(turns: Sequence[Turn], batch: int, clock: str, new_tokens: int) -> list[float]:
    """Of each turn the tokens after the first ones a second; of models with heads the requests a second."""
    made = []
    for turn in turns:
        parts = {name: getattr(took, clock) for name, took in turn[str(batch)].items()}
        if "whole" not in parts:
            made.append(batch / parts["first"])
        elif parts["whole"] > parts["first"]:
            made.append(batch * (new_tokens - 1) / (parts["whole"] - parts["first"]))
        else:
            raise InputError(
                f"evaluate.speed.new_tokens = {new_tokens}: so few that {batch} at a time took no longer than their first ones: "
                "set evaluate.speed.new_tokens higher"
            )
    return made


def median_interval(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of the median over rounds. Of few rounds it reaches to the least and the largest of them."""
    import numpy as np

    column = np.asarray(values, dtype=np.float64)

    def medians(times: np.ndarray) -> np.ndarray:
        return np.array([np.median(np.repeat(column, drawn.astype(int))) for drawn in times])

    made = bootstrap.interval(medians, len(column), seed, level=LEVEL, resamples=RESAMPLES)
    return (made.low, made.high) if made else None


def disturbed(figures: Mapping[str, Any]) -> str | None:
    """What to tell where wall time and CPU time say different things of a speedup; None where they agree."""
    told = [
        f"{name} {figures[name]:.2f} by wall time, {figures[f'cpu_{name}']:.2f} by CPU time"
        for name in figures
        if name.startswith("speedup_") and abs(math.log(figures[name] / figures[f"cpu_{name}"])) > DISTURBED
    ]
    return f"{'; '.join(told)}: something else ran on this machine, or threads waited" if told else None


def _writes(turns: Sequence[Turn]) -> bool:
    return "whole" in next(iter(turns[0].values()))


def _check_positions(config: Mapping[str, Any], needed: int, ref: str) -> None:
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if positions is not None and needed > positions:
        raise InputError(
            f"evaluate.speed: a request of {needed} tokens with its answer exceeds the {positions} positions of {ref!r}: lower "
            "evaluate.speed.prompt_tokens or evaluate.speed.new_tokens"
        )


def _passes(model: Path, dtype: str, cpus: int) -> Callable[[Sequence[list[int]], int], Any]:
    passed = latency.head(model, dtype, cpus)
    return lambda rows, _: passed(rows)
