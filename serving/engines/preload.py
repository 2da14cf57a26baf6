"""Imported by the fork server that engines are forked from, while the replica itself is still importing vLLM."""

import ctypes
import os
import signal

import vllm.v1.engine.core
import vllm.v1.executor.uniproc_executor  # noqa: F401
from vllm.platforms.cpu import CpuPlatform

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """An engine must not outlive its replica: the fork server ends when the replica does, and the engine with it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


os.register_at_fork(after_in_child=_die_with_parent)


def _grouped_lora(_: type[CpuPlatform]) -> str:
    return "serving.engines.grouped_lora.GroupedLora"


CpuPlatform.get_punica_wrapper = classmethod(_grouped_lora)  # type: ignore[assignment]
