"""What is seen of requests from outside: ids, the access log, metrics and the dashboard made of them; and what is not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import re
from pathlib import Path

import pytest
import yaml

from serving.canary import trial
from serving.door import access, answers, keys
from serving.door.meters import Meters, names
from tests.architecture.source_tree import ROOT
from tests.serving.fake_engine import CHAT, KEY, FakeEngine, bearer, hashed, talk

PROMPT = "what nobody else may read"


@pytest.fixture
def handler(tmp_path):
    """Of an access log in a file of the test's own."""
    path = access.open_file(tmp_path / "logs", "access")
    [handler] = [one for one in access.log.handlers if getattr(one, "baseFilename", None) == str(path)]
    yield handler
    access.log.removeHandler(handler)
    handler.close()


@pytest.fixture
def lines(handler):
    """The access log of the test, as written so far."""
    return lambda: [json.loads(line) for line in Path(handler.baseFilename).read_text().splitlines()]


class TestRequestId:
    def test_a_sane_one_is_taken_over_and_given_to_the_engine(self):
        engine = FakeEngine()
        answer = talk(engine, lambda client: client.post(CHAT, json={}, headers={"x-request-id": "my-id.1:2"}))
        assert answer.headers["x-request-id"] == "my-id.1:2"
        assert engine.headers[b"x-request-id"] == b"my-id.1:2"

    @pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, 'a"b', "a\u00fcb", "<script>"])
    def test_another_is_replaced(self, given):
        headers = {} if given is None else {"x-request-id": given.encode("latin-1")}

        async def story(client):
            return [(await client.post(CHAT, json={}, headers=headers)).headers["x-request-id"] for _ in range(2)]

        first, second = talk(FakeEngine(), story)
        assert re.fullmatch("req-[0-9a-f]{32}", first) and first != second

    def test_refusals_have_one_too(self):
        answer = talk(FakeEngine(), lambda client: client.get("/nope"), key_hashes=hashed(KEY))
        assert answer.status_code == 401
        assert answer.headers["x-request-id"].startswith("req-")

    def test_the_engine_never_sees_the_key(self):
        engine = FakeEngine()
        talk(engine, lambda client: client.post(CHAT, json={}, headers=bearer(KEY)), key_hashes=hashed(KEY))
        assert b"authorization" not in engine.headers


class TestLog:
    def test_a_line_has_the_costs_and_no_words(self, lines, tmp_path):
        file = str(tmp_path / "keys")
        made, secret = keys.create(file, "alice")
        body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        headers = {**bearer(secret), "x-request-id": "mine"}
        talk(FakeEngine(), lambda client: client.post(CHAT, json=body, headers=headers), keys_file=file)
        [line] = lines()
        expected = {
            "request_id": "mine", "key": made.id, "method": "POST", "path": CHAT, "model": "tiny", "status": 200, "reason": None,
            "prompt_tokens": 7, "completion_tokens": 3,
        }  # fmt: skip
        assert expected.items() <= line.items()
        assert line["ms"] >= line["first_token_ms"] >= 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert PROMPT not in json.dumps(line) and secret not in json.dumps(line)

    def test_refusals_are_in_it_with_their_reason(self, lines):
        async def story(client):
            await client.post(CHAT, json={})
            await client.post(CHAT, json={}, headers=bearer("wrong"))
            await client.get("/nope?key=sk-in-the-address", headers=bearer(KEY))
            await client.post(CHAT, json={"do": "break"}, headers=bearer(KEY))
            await client.get("/health")

        talk(FakeEngine(), story, key_hashes=hashed(KEY))
        told = [(line["status"], line["reason"], line["path"]) for line in lines()]
        wrong = (401, "invalid_api_key", CHAT)
        assert told == [wrong, wrong, (404, "unknown_url", "other"), (200, "internal_error", CHAT)]

    def test_no_key_and_no_prompt_is_in_any_log(self, lines, caplog, tmp_path):
        caplog.set_level(logging.DEBUG, logger="serving")
        file = str(tmp_path / "keys")
        _, secret = keys.create(file, "alice")

        async def story(client):
            for do in ("", "raise", "500", "400", "break", "stop short", "engine error", "bad grammar", "forever"):
                for who in (secret, f"{secret}x", f" {secret}"):
                    headers = {**bearer(who), "x-request-id": secret + "/"}
                    await client.post(CHAT, json={"do": do, "prompt": PROMPT, "stream": True}, headers=headers)
            await client.get(f"/{secret}", headers=bearer(secret))
            await client.post(CHAT, content=secret.encode(), headers=bearer(secret))

        talk(FakeEngine(), story, keys_file=file, request_seconds=0.02)
        assert "failed" in caplog.text and len(lines()) == 29
        written = caplog.text + json.dumps(lines())
        assert secret[:20] not in written and PROMPT not in written

    def test_refusals_that_are_alike_have_few_lines_which_say_how_many_they_were(self, lines, tmp_path):
        file = str(tmp_path / "keys")
        _, secret = keys.create(file, "alice", requests_per_minute=2)

        async def story(client):
            for _ in range(30):
                await client.post(CHAT, json={}, headers=bearer("wrong"))
            for _ in range(4):
                await client.post(CHAT, json={}, headers=bearer(secret))
            await asyncio.sleep(1.1)
            await client.post(CHAT, json={}, headers=bearer("wrong"))

        talk(FakeEngine(), story, keys_file=file)
        told = [(line["status"], line.get("more")) for line in lines()]
        assert told == [*[(401, None)] * access.ALIKE, (200, None), (200, None), (429, None), (429, None), (401, 19), (401, None)]  # fmt: skip

    def test_it_is_turned_over_before_it_grows_large(self, handler, tmp_path):
        handler.maxBytes = 1000
        for _ in range(30):
            access.Lines().write(access.Asked("i", "GET", "/", 0.0))
        files = sorted((tmp_path / "logs").iterdir())
        assert len(files) == 1 + access.FILES
        assert all(path.stat().st_size <= 1000 for path in files)


class TestMetrics:
    def samples(self, text: str) -> dict[str, float]:
        rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith(("manta_", "vllm"))]
        return {name: float(value) for name, _, value in rows}

    def test_they_count_by_model_and_key_beside_the_engines(self, tmp_path):
        file = str(tmp_path / "keys")
        made, secret = keys.create(file, "alice", requests_per_minute=3)
        headers = bearer(secret)

        async def story(client):
            await client.post(CHAT, json={})
            for body in ({"stream": True}, {"do": "raise"}, {"model": "nobody's"}, {}):
                await client.post(CHAT, json=body, headers=headers)
            return (await client.get("/metrics", headers={**headers, "accept-encoding": "gzip"})).text

        found = self.samples(talk(FakeEngine(), story, keys_file=file))
        by = f'key="{made.id}",model="tiny"'
        assert found["vllm:generation_tokens_total"] == 1
        assert found[f'manta_requests_total{{{by},path="{CHAT}",status="200"}}'] == 1
        assert found[f'manta_requests_total{{{by},path="{CHAT}",status="500"}}'] == 1
        assert found[f'manta_errors_total{{code="internal_error",{by}}}'] == 1
        assert found[f"manta_prompt_tokens_total{{{by}}}"] == 7
        assert found[f"manta_completion_tokens_total{{{by}}}"] == 3
        assert found[f"manta_time_to_first_token_seconds_count{{{by}}}"] == 1
        assert found[f"manta_time_per_token_seconds_count{{{by}}}"] == 1
        assert found['manta_rejected_total{key="-",model="-",reason="invalid_api_key"}'] == 1
        for reason in ("rate_limit_exceeded", "model_not_found"):
            assert found[f'manta_rejected_total{{key="{made.id}",model="-",reason="{reason}"}}'] == 1
        for gauge in ("working", "waiting"):
            assert found[f'manta_requests_{gauge}{{model="tiny"}}'] == 0

    def test_clients_cannot_make_up_labels(self):
        async def story(client):
            for name in ("a", "b", "c"):
                await client.post(CHAT, json={"model": name})
                await client.post(f"/{name}", json={})
                await client.request(name.upper() * 40, "/v1/models")
            return (await client.get("/metrics")).text

        text = talk(FakeEngine(), story)
        assert len([line for line in text.splitlines() if line.startswith("manta_requests_total")]) == 3

    def test_alerts_ask_for_what_there_is(self):
        rules = yaml.safe_load((ROOT / "cluster" / "alerts.yaml").read_text())["groups"][0]["rules"]
        named = {name for rule in rules for name in re.findall(r"\bmanta_\w+", rule["expr"])}
        assert len(rules) >= 5 and named <= Meters({}).names()
        reasons = {reason for rule in rules for reason in re.findall(r'reason="(\w+)"', rule["expr"])}
        assert reasons == {answers.BUSY.code, answers.UNAUTHORIZED.code}

    def test_the_dashboard_shows_only_what_there_is(self):
        """Manta's own metrics, and vLLM's by the names in its source."""
        board = json.loads((ROOT / "cluster" / "grafana.json").read_text())
        asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
        assert len(asked) >= 10
        named = {name for expression in asked for name in re.findall(r"\b(?:manta_|vllm:)\w+", expression)}
        spec = importlib.util.find_spec("vllm")
        assert spec is not None and spec.submodule_search_locations
        source = Path(spec.submodule_search_locations[0], "v1", "metrics", "loggers.py").read_text()
        vllms = {name for name in named if name.startswith("vllm:")}
        ends = re.compile("_(total|bucket|sum|count)$")
        assert {name for name in vllms if f'"{ends.sub("", name)}"' not in source} == set()
        own = Meters({}).names() | names(trial.Meters().registry)
        assert named - vllms <= own
        histograms = {name for name in own if not name.endswith(("_sum", "_count"))}
        assert histograms <= named, "a metric that no panel shows"
