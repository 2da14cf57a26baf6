"""The watchdog, in processes that really hang: on a lock, on a peer that never comes, inside native code."""

from __future__ import annotations

import re
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
dog = Watchdog(Folder(sys.argv[1]), 3, Limits(step=0.6, first_step=1.5, checkpoint=2.0, validation=0.6), grace=0.8)
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
