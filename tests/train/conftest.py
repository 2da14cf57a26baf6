"""What tests of training share: processes of their own, without Ray."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manta import isolate


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that wants a process of its own is done in this one."""
    monkeypatch.setattr(isolate, "run", lambda calls, _: [call.function(*call.arguments) for call in calls])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process as the only worker of a training."""
    import torch

    from manta.schema import TrainResources
    from manta.train import engine as engines

    engines.prepare_process(TrainResources())
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # Ray Train sets it
        yield
    torch.distributed.destroy_process_group()
    # DeepSpeed goes on with the groups that it saw first in a process.
    from deepspeed.comm import comm
    from deepspeed.utils import groups

    comm.cdb = None
    groups._WORLD_GROUP = None
