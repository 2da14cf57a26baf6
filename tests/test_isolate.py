"""Calls in processes of their own: results in order, reasons kept, and no process afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from manta import isolate
from manta.errors import InputError, StageFailed
from manta.isolate import Call

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]


def _pid(_: int) -> int:
    return os.getpid()


def _refuse() -> None:
    raise InputError("data.shards = 'x': no such folder")


def _divide() -> float:
    return 1 / 0


def _die_once(mark: Path) -> str:
    if not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ["COLOUR"]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_more_calls_than_cores_each_in_a_process_that_ends(wait_until) -> None:
    pids = isolate.run([Call(_pid, (number,), cpus=2) for number in range(3)], "the test")
    assert len({*pids, os.getpid()}) == 4
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 20, "the processes end")


def test_a_reason_arrives_as_it_was_raised() -> None:
    with pytest.raises(InputError, match=r"data\.shards"):
        isolate.run([Call(_refuse, (), cpus=1)], "the test")
    with pytest.raises(StageFailed, match="the test failed: ZeroDivisionError"):
        isolate.run([Call(_divide, (), cpus=1)], "the test")


def test_a_process_that_dies_is_tried_once_more(tmp_path: Path) -> None:
    call = Call(_die_once, (tmp_path / "mark",), cpus=1, environment={"COLOUR": "blue"})
    assert isolate.run([call], "the test") == ["blue"]
    with pytest.raises(StageFailed, match="its process died"):
        isolate.run([Call(_die, (), cpus=1)], "the test")
