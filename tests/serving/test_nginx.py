"""The nginx configuration of the guide, run as it is written: TLS, streams that are not held up, clients that leave."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from serving.fleet.address import take_port
from tests.architecture.source_tree import ROOT
from tests.serving import talker
from tests.serving.fake_engine import CHAT, KEY, bearer, hashed, launch
from tests.serving.talker import ANSWER, Talker

NGINX, OPENSSL = shutil.which("nginx"), shutil.which("openssl")
pytestmark = pytest.mark.skipif(NGINX is None or OPENSSL is None, reason="no nginx or no openssl on this machine")

BODY_BYTES = 100_000
AROUND = """
daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    {guide}
}}
"""


class Behind(NamedTuple):
    """An endpoint, and nginx before it."""

    talker: Talker
    http: httpx.Client


def of_guide(folder: Path, port: int, endpoint: str) -> str:
    """The guide's configuration, with the ports and the certificate of this test."""
    [text] = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "production.md").read_text(), re.DOTALL)
    changed = {"127.0.0.1:8000": endpoint, "listen 443 ssl": f"listen 127.0.0.1:{port} ssl", "/etc/ssl/models": f"{folder}/models"}  # fmt: skip
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    return AROUND.format(guide=text)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    assert NGINX is not None and OPENSSL is not None
    folder, port, said = tmp_path_factory.mktemp("nginx"), take_port("127.0.0.1", 0), Talker()
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    made += ["-keyout", str(folder / "models.key"), "-out", str(folder / "models.pem")]
    subprocess.run(made, check=True, capture_output=True)
    plan = launch(key_hashes=hashed(KEY), max_body_bytes=BODY_BYTES, max_ongoing_requests=64)
    with talker.served(said, plan) as url:
        (folder / "nginx.conf").write_text(of_guide(folder, port, url.removeprefix("http://")))
        log = (folder / "out.log").open("wb")
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", "nginx.conf"], stdout=log, stderr=log)
        trusted = ssl.create_default_context(cafile=str(folder / "models.pem"))
        try:
            with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted, timeout=30) as http:
                deadline = time.monotonic() + 20
                while not _answers(http):
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "out.log").read_text()
                    time.sleep(0.05)
                yield Behind(said, http)
        finally:
            process.terminate()
            process.wait(20)
            log.close()


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def body(said: str, stream: bool = True) -> dict[str, object]:
    return {"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": said}]}


def test_a_stream_arrives_as_it_is_written_and_is_stopped_when_its_client_leaves(behind: Behind) -> None:
    """The whole of it takes minutes: were it collected, nothing would come in time."""
    with behind.http.stream("POST", CHAT, json=body("slow"), headers=bearer(KEY)) as answer:
        first = next(line for line in answer.iter_lines() if line.startswith("data: "))
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["content"] == ANSWER[0]
    assert behind.talker.left.wait(20), "the endpoint does not hear that the client has gone"


def test_connections_to_the_endpoint_are_kept_and_answers_are_whole(behind: Behind) -> None:
    for _ in range(20):
        answer = behind.http.post(CHAT, json=body("hello"), headers={**bearer(KEY), "x-request-id": "mine"})
        assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
        assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(("size", "key", "status"), [(10, "sk-wrong", 401), (1_500_000, "sk-wrong", 401), (1_500_000, KEY, 413)])  # fmt: skip
def test_refusals_are_the_endpoints_own(behind: Behind, size: int, key: str, status: int) -> None:
    """Also those that come while nginx is still handing over what is refused."""
    for _ in range(5):
        answer = behind.http.post(CHAT, json=body("x" * size), headers=bearer(key))
        assert answer.status_code == status, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_metrics_stay_inside(behind: Behind) -> None:
    assert behind.http.get("/metrics", headers=bearer(KEY)).status_code == 403
