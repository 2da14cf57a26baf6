"""Runs competitors in turn on the same machine, measures each run, and writes one row that says what was measured."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from manta import artifact

ROOT = Path(__file__).resolve().parent.parent
TRACKED = ROOT / "benchmarks" / "results"
SCRATCH = ROOT / "runs" / "benchmarks"
SAMPLE_S = 0.2
MEMORY_EVERY = 5  # memory is read at every fifth sample: it costs more than CPU time


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Window:
    """What a stretch of work took. Complete when its `measure` block has ended."""

    wall_s: float = 0.0
    cpu_s: float = 0.0  # user and system, the processes of the tree and those that ended meanwhile
    peak_bytes: int = 0  # proportional set size (shared pages counted once), summed over the tree


class _Sampler:
    """Follows process trees; a process that ends between two samples loses at most one interval of its time."""

    def __init__(self, roots: Sequence[int]):
        self._roots = roots
        self._begun: dict[tuple[int, float], float] = {}
        self._latest: dict[tuple[int, float], float] = {}
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="bench-sampler", daemon=True)

    def start(self) -> None:
        self._sample(memory=True)
        self._begun = dict(self._latest)
        self._thread.start()

    def stop(self) -> float:
        """CPU seconds since `start`."""
        self._ended.set()
        self._thread.join()
        self._sample(memory=True)
        return sum(seconds - self._begun.get(key, 0.0) for key, seconds in self._latest.items())

    def _follow(self) -> None:
        count = 0
        while not self._ended.wait(SAMPLE_S):
            count += 1
            self._sample(memory=count % MEMORY_EVERY == 0)

    def _sample(self, memory: bool) -> None:
        held = 0
        for process in _trees(self._roots):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._latest[process.pid, process.create_time()] = times.user + times.system
                if memory:
                    held += _proportional_bytes(process.pid)
        self.peak_bytes = max(self.peak_bytes, held)


def _trees(roots: Iterable[int]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(root)
            found |= {item.pid: item for item in (process, *process.children(recursive=True))}
    return list(found.values())


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def measure(pids: Sequence[int] | None = None) -> Iterator[Window]:
    """Measure the block: wall seconds, CPU seconds and peak memory of the trees of `pids` (default: this process)."""
    window = Window()
    sampler = _Sampler(pids or [os.getpid()])
    sampler.start()
    started = time.monotonic()
    try:
        yield window
    finally:
        window.wall_s = time.monotonic() - started
        window.cpu_s = sampler.stop()
        window.peak_bytes = sampler.peak_bytes


# --- competitors -----------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run of one competitor. `figures` are what it reported itself; `error` says why it broke off."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    figures: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def value(self, key: str) -> float:
        """A figure by name, or one of wall_s, cpu_s, peak_bytes. Raises KeyError naming what there is."""
        found = self.figures.get(key, getattr(self, key, None))
        if not isinstance(found, (int, float)):
            raise KeyError(
                f"a run has no figure {key!r}: it has {', '.join(self.figures) or 'none of its own'}, wall_s, cpu_s, peak_bytes"
            )
        return float(found)


@dataclass(frozen=True)
class Command:
    """A competitor in a process of its own; the last line it prints may be a JSON object of figures."""

    argv: Sequence[str]
    env: Mapping[str, str]
    timeout: float

    def __call__(self) -> dict[str, Any]:
        process = subprocess.Popen(
            list(self.argv),
            env=os.environ | dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=self.timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"{self.argv[0]} took over {self.timeout:g} s") from None
            raise
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {err.strip()[-1500:]}")
        last = out.strip().splitlines()[-1:] or [""]
        return dict(json.loads(last[0])) if last[0].startswith("{") else {}


def command(argv: Sequence[Any], env: Mapping[str, str] | None = None, timeout: float = 300) -> Command:
    """A competitor that is a command line."""
    return Command([str(word) for word in argv], env or {}, timeout)


def run_once(competitor: Callable[[], Mapping[str, Any] | None]) -> Run:
    """Call a competitor, measured; an exception becomes the run's error."""
    figures: Mapping[str, Any] | None = None
    error = None
    reaped = _reaped_seconds()
    with measure() as window:
        try:
            figures = competitor()
        except Exception as raised:  # noqa: BLE001 - a run that failed is a result, and stays in the row
            error = "".join(traceback.format_exception_only(raised)).strip()
    if isinstance(competitor, Command):  # the kernel's account of a process that has ended is exact
        window.cpu_s = max(window.cpu_s, _reaped_seconds() - reaped)
    return Run(window.wall_s, window.cpu_s, window.peak_bytes, dict(figures or {}), error)


def _reaped_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pair_ratios(of: Sequence[Run], over: Sequence[Run], key: str) -> list[float]:
    """Ratio of each run to its neighbour in time, so that a change of the machine's speed touches both."""
    return [a.value(key) / b.value(key) for a, b in zip(of, over, strict=True) if a.error is None and b.error is None]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# --- one benchmark ---------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """One question being answered; see `bench`."""

    name: str
    question: str
    quick: bool
    record: bool
    repeats: int | None
    settings: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def alternate(
        self,
        competitors: Mapping[str, Callable[[], Mapping[str, Any] | None]],
        repeats: int,
        warmup: int = 0,
        label: str = "",
    ) -> dict[str, list[Run]]:
        """Run A B A B ...: `warmup` uncounted rounds, then `repeats` rounds. All runs are kept in the row."""
        taken: dict[str, list[Run]] = {name: [] for name in competitors}
        repeats = self.repeats or repeats
        for turn in range(-warmup, repeats):
            for name, competitor in competitors.items():
                done = run_once(competitor)
                what = "warm-up" if turn < 0 else f"{turn + 1}/{repeats}"
                told = f"FAILED: {done.error}" if done.error else f"wall {done.wall_s:.2f} s, CPU {done.cpu_s:.2f} s"
                self.say(f"{self.name}{' ' + label if label else ''}: {name} {what}: {told}")
                if turn >= 0:
                    taken[name].append(done)
        for name, done_runs in taken.items():
            self.runs.setdefault(f"{label}: {name}" if label else name, []).extend(done_runs)
        return taken

    def figure(self, name: str, value: float | Sequence[float], unit: str = "", note: str = "") -> None:
        """A figure of the row: a number, or several of which the median counts."""
        values = [float(value)] if isinstance(value, (int, float)) else [float(item) for item in value]
        if not values:
            self.error = self.error or f"{name}: no run finished: {self._first_failure()}"
            self.figures[name] = {"median": None, "unit": unit, "note": note or "no run finished"}
            return
        shown = {key: _rounded(item) for key, item in spread(values).items()}
        self.figures[name] = {**shown, "unit": unit, "note": note, "values": [_rounded(item) for item in values]}

    def ratio(self, name: str, runs: Mapping[str, Sequence[Run]], of: str, over: str, key: str, note: str = "") -> None:
        """The figure `name`: `key` of competitor `of` divided by that of `over`, pair by pair."""
        self.figure(name, pair_ratios(runs[of], runs[over], key), unit="x", note=note or f"{key}: {of} / {over}")

    def _first_failure(self) -> str:
        return next((run.error for runs in self.runs.values() for run in runs if run.error), "none was started")

    def row(self) -> dict[str, Any]:
        """The finished row as JSON data."""
        commit, dirty = _commit()
        return {
            "benchmark": self.name,
            "question": self.question,
            "figures": self.figures,
            "error": self.error,
            "settings": {"quick": self.quick, **self.settings},
            "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
            "date": artifact.now(),
            "commit": commit,
            "dirty": dirty,
            "hardware": artifact.hardware(),
            "load_average": [round(value, 2) for value in os.getloadavg()],
            "versions": artifact.versions(),
            "runs": {name: [_run_json(run) for run in runs] for name, runs in self.runs.items()},
        }


def _run_json(run: Run) -> dict[str, Any]:
    own = {key: _rounded(value) if isinstance(value, float) else value for key, value in run.figures.items()}
    return {
        "wall_s": _rounded(run.wall_s),
        "cpu_s": _rounded(run.cpu_s),
        "peak_bytes": run.peak_bytes,
        "figures": own,
        "error": run.error,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _commit() -> tuple[str | None, bool]:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # A row about to be written, and the table made from rows, do not make the code another.
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md")
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None, False


def store(row: dict[str, Any], folder: Path) -> Path:
    """Write the row into folder/NAME.json, a list, in place of one with the same settings on the same hardware."""
    path = folder / f"{row['benchmark']}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    same = lambda old: old["settings"] == row["settings"] and old["hardware"] == row["hardware"]  # noqa: E731
    kept = [old for old in rows if not same(old)]
    folder.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    text = json.dumps([*kept, row], indent=1, ensure_ascii=False)
    scratch.write_text(text.replace(f"{ROOT}/", "") + "\n")  # a row is read elsewhere: no paths of this machine
    scratch.replace(path)
    return path


@contextlib.contextmanager
def bench(name: str, description: str | None, arguments: Sequence[str] | None = None) -> Iterator[Bench]:
    """Parse the command line, yield the benchmark, then write its row and print its figures as the last line.

    An exception inside the block becomes the row's error and exit code 1; figures found before it stay.
    """
    question = (description or "").strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="fewer runs on less data, within ten minutes")
    parser.add_argument(
        "--record", action="store_true", help="write the row to benchmarks/results and the README's table"
    )
    parser.add_argument("--repeats", type=int, help="rounds of each comparison")
    options = parser.parse_args(arguments)
    # SIGTERM ends a benchmark as Ctrl-C does: competitors are processes of their own, and must not outlive it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made = Bench(name, question, options.quick, options.record, options.repeats)
    try:
        yield made
    except KeyboardInterrupt:
        raise
    except Exception as error:  # noqa: BLE001 - a benchmark that failed is a result, and stays in the table
        made.error = "".join(traceback.format_exception_only(error)).strip()
        traceback.print_exc()
    path = store(made.row(), TRACKED if made.record else SCRATCH)
    made.say(f"{name}: row written to {path.relative_to(ROOT)}")
    if made.record:
        import report

        report.write()
    for figure_name, shown in made.figures.items():
        made.say(f"  {figure_name:32} {show_figure(shown)}  {shown['note']}")
    last = {key: shown["median"] for key, shown in made.figures.items()}
    print(json.dumps(last | ({"error": made.error} if made.error else {})), flush=True)
    if made.error:
        sys.exit(1)


def show_figure(shown: Mapping[str, Any]) -> str:
    """A figure for people: 0.82x (0.80-0.85)."""
    if shown["median"] is None:
        return "no run finished"
    unit = shown["unit"] if shown["unit"] == "x" else f" {shown['unit']}" if shown["unit"] else ""
    several = len(shown["values"]) > 1
    return f"{shown['median']:g}{unit}" + (f" ({shown['min']:g} to {shown['max']:g})" if several else "")
