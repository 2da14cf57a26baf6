"""Memory that a step freed is there for the next one: counted in page faults, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from manta.train import memory

# Faults of the second of two strings of 80 MiB, more than a heap of a thread holds, the first of which is freed: 20,480
# pages if they are fresh.
PROGRAM = """
import resource, sys, threading

from manta.train import memory
size = 80 * 2**20
if sys.argv[1] == "kept" and not memory.keep():
    sys.exit("this C library has no mallopt")

def work():
    b"x" * size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * size
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[2] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def faults(how: str, where: str = "main", environment: Mapping[str, str] = MappingProxyType({})) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, where],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    if "no mallopt" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_is_used_again() -> None:
    assert faults("kept") < 100
    assert faults("given back") > 1000  # what it is for: were this low too, memory.keep would do nothing


def test_memory_is_used_again_in_a_thread() -> None:
    """Ray Train calls the loop in one."""
    assert faults("kept", "thread", memory.ENVIRONMENT) < 100
    assert faults("kept", "thread") > 1000  # what the environment is for
