"""What tests of the data stage share: tasks without Ray."""

from __future__ import annotations

import pytest

from manta.data import enlarge, exchange, refine, tokenise
from tests.data.refining import one_by_one


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process, one after the other, the last first."""
    for module in (enlarge, exchange, refine, tokenise):
        monkeypatch.setattr(module, "spread", one_by_one)
