"""What tests of training share: processes of their own, without Ray."""

from __future__ import annotations

import pytest

from manta import isolate


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that wants a process of its own is done in this one."""
    monkeypatch.setattr(isolate, "run", lambda calls, _: [call.function(*call.arguments) for call in calls])
