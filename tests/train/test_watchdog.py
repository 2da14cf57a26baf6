"""The watchdog, in processes that really hang: on a lock, on a peer that never comes, inside native code."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manta.train.watchdog import EXIT_HUNG

SET_UP = """
import ctypes, sys, threading, time
from manta.sections.optimisation import Watchdog as Limits
from manta.storage import Folder
from manta.train.watchdog import Watchdog
limits = Limits(step=0.6, first_step=1.5, checkpoint=2.0, validation=0.6)
dog = Watchdog(Folder(sys.argv[1]), 3, limits, grace=0.8)
"""
PAIR = """
import os, signal, sys, time
from manta.sections.optimisation import Watchdog as Limits
from manta.storage import Folder
from manta.train.watchdog import Watchdog
rank = int(sys.argv[2])
dog = Watchdog(Folder(sys.argv[1]), rank, Limits(step=2.0 if rank == 0 else 6.0), ranks=2, grace=20.0)
print("ready", flush=True)
sys.stdin.readline()
dog.beat(4)
def wait_for_the_other():
    time.sleep(40)
wait_for_the_other()
"""


def run(body: str, folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SET_UP + body, str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, time.monotonic() - started


def stacks(folder: Path) -> str:
    return (folder / "work/stacks/rank-3.txt").read_text()


def test_a_lock_that_never_comes(tmp_path: Path) -> None:
    done, _ = run("""
def wait_for_ever():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
dog.beat(7)
wait_for_ever()
""", tmp_path)  # fmt: skip
    assert done.returncode == EXIT_HUNG == 75
    text = stacks(tmp_path)
    assert text.startswith("rank 3 (process ") and "s in its step after 7 steps" in text
    assert "the limit is watchdog.step = 0.6 s" in text
    assert "in wait_for_ever" in text and text.count("hread 0x") >= 3, "every thread is there"
    assert text in done.stderr


def test_a_peer_that_sleeps(tmp_path: Path) -> None:
    body = """
import datetime, torch
torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(sys.argv[2], 2), rank=int(sys.argv[3]),
                                     world_size=2, timeout=datetime.timedelta(seconds=50))
if sys.argv[3] == "1":
    dog.close()
    time.sleep(50)
def share_the_loss():
    torch.distributed.all_reduce(torch.ones(1))
dog.beat(1)
share_the_loss()
"""
    body = "dog._mark = ('first_step', time.monotonic() + 30, 0)\n" + body  # importing torch takes its time
    store = str(tmp_path / "store")
    command = [sys.executable, "-c", SET_UP + body, str(tmp_path), store, "1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as sleeper:
        try:
            done, _ = run(body, tmp_path, store, "0")
        finally:
            sleeper.kill()
    assert done.returncode == EXIT_HUNG, done.stderr
    assert "in share_the_loss" in stacks(tmp_path) and "in all_reduce" in stacks(tmp_path)


def test_native_code_that_keeps_pythons_lock(tmp_path: Path) -> None:
    """The thread cannot run, so faulthandler's own timer ends the process."""
    done, seconds = run("""
def sleep_with_the_lock():
    ctypes.PyDLL(None).sleep(40)
dog.beat(1)
time.sleep(0.2)
sleep_with_the_lock()
""", tmp_path)  # fmt: skip
    assert done.returncode == 1 and seconds < 30
    assert "in sleep_with_the_lock" in done.stderr
    assert not (tmp_path / "work").exists()


def test_steps_and_long_phases_within_their_limits_live(tmp_path: Path) -> None:
    done, _ = run("""
time.sleep(1.0)
for step in range(1, 6):
    dog.beat(step)
    time.sleep(0.25)
with dog.during("checkpoint"):
    time.sleep(1.3)
time.sleep(0.25)
dog.close()
time.sleep(1.2)
print("alive")
""", tmp_path)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "phase", "setting"),
    [
        ("time.sleep(50)", "its first step after 0 steps", "watchdog.first_step = 1.5 s"),
        ("dog.beat(4)\nwith dog.during('validation'):\n    time.sleep(50)", "its validation after 4 steps", "watchdog.validation = 0.6 s"),
    ],
)  # fmt: skip
def test_each_phase_has_its_own_limit(body: str, phase: str, setting: str, tmp_path: Path) -> None:
    done, _ = run(body, tmp_path)
    assert done.returncode == EXIT_HUNG
    assert phase in stacks(tmp_path) and setting in stacks(tmp_path)
    silent = re.search(r"hangs: (\d+) s", stacks(tmp_path))
    assert silent is not None and int(silent[1]) < 5, "noticed when the limit was reached"


def test_where_the_stacks_cannot_be_written_the_process_still_ends(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("in the way")
    done, _ = run("dog.beat(1)\ntime.sleep(50)", tmp_path)
    assert done.returncode == EXIT_HUNG
    assert "rank 3" in done.stderr


def pair(folder: Path) -> list[subprocess.Popen[str]]:
    """Two ranks that wait for ever: the first loses its patience after two seconds, the second after six."""
    command, pipe = [sys.executable, "-c", PAIR, str(folder)], subprocess.PIPE
    started = [
        subprocess.Popen([*command, rank], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        for rank in "10"
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:  # both at once, however long each took to start
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return started


def stop(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_the_other_rank_leaves_its_stacks_too(tmp_path: Path) -> None:
    (tmp_path / "work/stacks/asked").mkdir(parents=True)
    for name in ("request", "rank-1"):
        (tmp_path / "work/stacks/asked" / name).write_text("of an earlier worker group")
    processes = pair(tmp_path)
    try:
        assert processes[1].wait(60) == EXIT_HUNG
    finally:
        stop(processes)
    first, second = ((tmp_path / f"work/stacks/rank-{rank}.txt").read_text() for rank in "01")
    assert first.startswith("rank 0 (process ") and " s in its step after 4 steps, the limit is " in first
    assert second.startswith("rank 1 (process ") and ", asked by a rank that hangs: " in second
    assert "in wait_for_the_other" in first and "in wait_for_the_other" in second


def test_a_rank_that_is_stopped_cannot_and_that_is_said(tmp_path: Path) -> None:
    processes = pair(tmp_path)
    try:
        processes[0].send_signal(signal.SIGSTOP)
        assert processes[1].wait(60) == EXIT_HUNG
    finally:
        stop(processes)
    said = (tmp_path / "work/stacks/rank-1.txt").read_text()
    assert said.startswith("rank 1 did not answer rank 0, which hangs, within ") and "it is stopped" in said


def test_what_gets_ahead_is_not_ended(tmp_path: Path) -> None:
    done, _ = run("""
with dog.during("validation"):
    for _ in range(8):
        time.sleep(0.2)
        dog.touch()
time.sleep(0.1)
dog.close()
print("alive")
""", tmp_path)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "alive\n")
