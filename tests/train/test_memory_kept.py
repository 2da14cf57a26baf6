"""Memory that a step freed is there for the next one: counted in page faults, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Faults of the second of two strings of 64 MiB, the first of which is freed: 16,384 pages if they are fresh.
PROGRAM = """
import resource, sys

from manta.train import memory
size = 2**26
if sys.argv[1] == "kept" and not memory.keep():
    sys.exit("this C library has no mallopt")
b"x" * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=False, capture_output=True, text=True)
    if "no mallopt" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_is_used_again() -> None:
    assert faults("kept") < 100
    assert faults("given back") > 1000  # what it is for: were this low too, memory.keep would do nothing
