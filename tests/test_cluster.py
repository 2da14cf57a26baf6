"""Connecting to Ray, resource arithmetic, and progress from workers, on a real local Ray."""

import io
import json

import pytest

from manta import cluster
from manta.errors import InputError
from manta.progress import Progress

pytestmark = pytest.mark.integration


def test_a_local_ray_offers_cores_and_keeps_spares(ray_session) -> None:
    import ray

    cluster.connect()  # a second time changes nothing
    assert cluster.is_local()
    assert cluster.total_cpus() + cluster.SPARE_CPUS == ray.cluster_resources()["CPU"]
    assert ray.get(ray.remote(num_cpus=0)(cluster.is_local).remote()), "its workers know it too"


def test_what_cannot_fit_is_refused_with_what_would(ray_session) -> None:
    cpus = cluster.total_cpus()
    cluster.check_fits(cpus, 1, 0)
    with pytest.raises(InputError, match=rf"set resources\.workers={cpus}"):
        cluster.check_fits(cpus + 1, 1, 0)
    with pytest.raises(InputError, match=r"resources\.gpus_per_worker=0"):
        cluster.check_fits(1, 1, 1)


def test_workers_report_through_the_mailbox_and_learn_of_a_stop(ray_session) -> None:
    import ray

    stream = io.StringIO()
    progress = Progress(as_json=True, stream=stream)

    @ray.remote(num_cpus=0)
    def work(mailbox, done: int) -> bool:
        mailbox.put.remote({"note": f"note {done}"})
        return ray.get(mailbox.put.remote({"update": {"done": done, "total": 2, "unit": "steps", "loss": 1.5}}))

    with cluster.relay(progress) as mailbox:
        assert ray.get(work.remote(mailbox, 1)) is False
        ray.get(mailbox.stop.remote())
        assert ray.get(work.remote(mailbox, 2)) is True
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["text"] for event in events if event["event"] == "note"] == ["note 1", "note 2"]
    assert events[-1]["done"] == 2, "what was left in the mailbox at the end is delivered"


def test_sigterm_stays_ours(ray_session) -> None:
    """Whatever an earlier test left there: what handles it before Ray starts handles it afterwards."""
    import signal

    cluster.disconnect()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster.connect(minimum_cpus=2)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_dead_address_is_the_users_input() -> None:
    cluster.disconnect()
    with pytest.raises(InputError, match="no Ray cluster answers"):
        cluster.connect("127.0.0.1:1")


def test_what_rays_daemons_announce_never_reaches_stdout(capsys) -> None:
    """stdout holds the JSON lines of a run; the advice on worker counts is dropped, everything else is shown."""
    noise = "WARNING: 14 PYTHON worker processes have been started on node: x"
    cluster._announce({"lines": [noise, "out of memory"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "ray: out of memory\n"


def test_what_several_workers_say_is_told_once() -> None:
    mailbox = cluster._Mailbox()
    for rank in range(3):
        mailbox.put({"note": f"rank {rank} finds the disk full", "once": "full"})
    mailbox.put({"note": "another thing"})
    mailbox.put({"note": "another thing"})
    assert [message["note"] for message in mailbox.drain()] == [
        "rank 0 finds the disk full",
        "another thing",
        "another thing",
    ]
    mailbox.put({"note": "still full", "once": "full"})
    assert mailbox.drain() == []
