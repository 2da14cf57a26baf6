"""Two models, one of which has an adapter, behind one gateway around an engine that is a few lines of ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

from serving.door import keys
from serving.launch import Adapter
from tests.serving.fake_engine import CHAT, FINGERPRINT, FakeEngine, bearer, is_openai_error, launch, served, talk

LAW = Adapter("law", "/a", "cd" * 32, 8)
SHELF: dict[str, Any] = {
    "served": (served(adapters=(LAW,)), served(name="other", fingerprint="ef" * 32)),
    "max_body_bytes": 10_000,
}


def test_a_request_without_a_model_hears_which_there_are():
    answer = talk(FakeEngine(), lambda client: client.post(CHAT, json={}), **SHELF)
    assert answer.status_code == 400
    assert is_openai_error(answer) and answer.json()["error"]["code"] == "model_missing"
    assert "tiny, law, other" in answer.json()["error"]["message"]


def test_it_hears_only_those_that_its_key_may_ask(tmp_path):
    file = str(tmp_path / "keys")
    _, secret = keys.create(file, "bob", ["law"])
    answer = talk(FakeEngine(), lambda c: c.post(CHAT, json={}, headers=bearer(secret)), keys_file=file, **SHELF)
    assert answer.status_code == 400
    assert "law" in answer.text and "tiny" not in answer.text and "other" not in answer.text


def test_answers_tell_which_model_gave_them_and_the_engine_is_told_too():
    engine = FakeEngine()

    async def story(client):
        found = []
        for name in ("tiny", "law", "other"):
            headers = (await client.post(CHAT, json={"model": name})).headers
            found.append(
                (
                    headers.get_list("x-manta-fingerprint"),
                    headers.get("x-manta-base-fingerprint"),
                    engine.state["model"],
                )
            )
        return found, (await client.get("/health")).headers.get_list("x-manta-fingerprint")

    found, of_all = talk(engine, story, **SHELF)
    assert found == [([FINGERPRINT], None, "tiny"), (["cd" * 32], FINGERPRINT, "law"), (["ef" * 32], None, "other")]
    assert of_all == [launch(**SHELF).fingerprint] and of_all[0] not in (FINGERPRINT, "ef" * 32)


def test_the_list_needs_no_engine():
    engine = FakeEngine()
    listed = talk(engine, lambda client: client.get("/v1/models"), **SHELF).json()
    assert listed["object"] == "list"
    assert [(one["id"], one["parent"], one["max_model_len"]) for one in listed["data"]] == [
        ("tiny", None, 256), ("law", "tiny", 256), ("other", None, 256),
    ]  # fmt: skip
    assert engine.seen == []


def test_one_model_that_is_full_does_not_close_the_other():
    engine = FakeEngine()

    async def story(client):
        engine.hold = asyncio.Event()
        waiting = [asyncio.ensure_future(client.post(CHAT, json={"model": name})) for name in ("tiny", "law", "tiny")]
        while len(engine.seen) < 3:
            await asyncio.sleep(0)
        full = await client.post(CHAT, json={"model": "law"})
        waiting.append(asyncio.ensure_future(client.post(CHAT, json={"model": "other"})))
        while len(engine.seen) < 4:
            await asyncio.sleep(0)
        gauges = (await client.get("/metrics")).text
        engine.hold.set()
        return full, [one.status_code for one in await asyncio.gather(*waiting)], gauges

    full, codes, gauges = talk(engine, story, **SHELF)
    assert full.status_code == 503 and full.headers["retry-after"] == "1"
    assert codes == [200] * 4
    for line in ('working{model="tiny"} 2.0', 'waiting{model="tiny"} 1.0', 'working{model="other"} 1.0'):
        assert f"manta_requests_{line}" in gauges
