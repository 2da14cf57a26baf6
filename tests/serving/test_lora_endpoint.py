"""Three adapters and their base behind one endpoint, with real Ray Serve and vLLM: each answers as itself, whoever asks beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from manta import recipe as recipes
from manta.progress import Progress
from serving import deploy
from serving.door import keys
from serving.launch import system_fingerprint
from tests.serving import lora

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_TOKENS = 12
PROMPTS = [[5, 9, 200, 31, 77, 12, 8], [300, 7, 6, 61, 150, 33, 90, 14, 11, 250, 44], [40] * 20]


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """Name -> the base, and its adapters: two PEFT directories and one that lies in a run."""
    root = tmp_path_factory.mktemp("lora")
    made = {"tiny": lora.make_base(tiny_model, root / "base")}
    for seed, (name, rank) in enumerate(lora.RANKS.items()):
        inner = "run/adapter" if name == "three" else name
        made[name] = lora.make_adapter(made["tiny"], root / inner, seed, rank)
    lora.as_run(root / "run", "run", {"ref": str(made["tiny"]), "kind": "directory", "fingerprint": "0" * 64})
    return made


@pytest.fixture(scope="module")
def endpoint(folders, ray_session, tmp_path_factory) -> Iterator[deploy.Running]:
    adapters = {name: str(folders[name]) for name in ("one", "two")} | {"three": str(folders["three"].parent)}
    file = tmp_path_factory.mktemp("keys") / "keys"
    keys.create(str(file), "everybody")
    recipe: Any = recipes.validate(
        {
            "kind": "serve",
            "name": "tiny",
            "output": str(file.parent),
            "model": {"source": str(folders["tiny"]), "adapters": adapters},
            "serve": {
                "port": 0,
                "dtype": "float32",
                "kv_cache_gib": 0.25,
                "max_model_len": 128,
                "keys_file": str(file),
            },
        }
    )
    with deploy.endpoint(recipe, Progress(quiet=True), own_key=True) as running:
        yield running


async def complete(client: httpx.AsyncClient, model: str, prompt: list[int]) -> list[int]:
    asked = {"model": model, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0.0, "ignore_eos": True}
    answer = await client.post("/v1/completions", json=asked | {"return_token_ids": True})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["choices"][0]["token_ids"])


def client_of(running: deploy.Running, key: str | None = None) -> httpx.AsyncClient:
    fields = {"authorization": f"Bearer {key or running.key}"}
    return httpx.AsyncClient(base_url=running.url, headers=fields, timeout=120)


def test_each_answers_as_itself_alone_and_beside_the_others(endpoint, folders):
    wanted = {
        name: lora.answers(folders["tiny"], None if name == "tiny" else folder, PROMPTS, NUM_TOKENS)
        for name, folder in folders.items()
    }
    assert len({str(found) for found in wanted.values()}) == 4, "the adapters do not differ: nothing is tested"

    async def story() -> tuple[dict[str, Any], dict[str, Any]]:
        async with client_of(endpoint) as client:
            alone = {name: [await complete(client, name, prompt) for prompt in PROMPTS] for name in wanted}
            asked = [(name, prompt) for prompt in PROMPTS for name in wanted] * 2
            found = await asyncio.gather(*(complete(client, *one) for one in asked))
            together: dict[str, list[Any]] = {name: [] for name in wanted}
            for (name, _), tokens in zip(asked, found, strict=True):
                together[name].append(tokens)
            return alone, together

    alone, together = asyncio.run(story())
    assert alone == wanted
    assert together == {name: found * 2 for name, found in wanted.items()}


def test_answers_are_signed_by_what_gave_them(endpoint):
    [served] = endpoint.launch.served

    async def story() -> dict[str, tuple[Any, ...]]:
        found = {}
        async with client_of(endpoint) as client:
            for name in served.names:
                asked = {"model": name, "messages": [{"role": "user", "content": "the quick"}], "max_tokens": 2}
                whole = await client.post("/v1/chat/completions", json=asked)
                stream = await client.post("/v1/chat/completions", json=asked | {"stream": True})
                told = [whole.headers.get("x-manta-fingerprint"), whole.headers.get("x-manta-base-fingerprint")]
                found[name] = (*told, whole.json()["system_fingerprint"], stream.text)
        return found

    found = asyncio.run(story())
    base, *_ = found["tiny"]
    assert (base, found["tiny"][1]) == (served.fingerprint, None)
    for adapter in served.adapters:
        own, below, signature, stream = found[adapter.name]
        assert (own, below) == (adapter.fingerprint, base)
        assert signature == system_fingerprint(base, own) == f"manta-{base[:16]}+{own[:16]}"
        assert signature in stream
    assert f'"{system_fingerprint(base)}"' in found["tiny"][3]


def test_the_list_names_adapters_with_their_parent_and_a_key_sees_its_own(endpoint):
    _, secret = keys.create(str(endpoint.launch.keys_file), "bob", ["two"])

    async def story() -> tuple[Any, Any, list[int]]:
        async with client_of(endpoint) as whole, client_of(endpoint, secret) as bound:
            await asyncio.sleep(keys.CHECK_SECONDS + 0.1)
            listed = (await whole.get("/v1/models")).json()["data"]
            seen = (await bound.get("/v1/models")).json()["data"]
            asked = [{"model": name, "prompt": [5], "max_tokens": 1} for name in ("two", "one", "tiny")]
            codes = [(await bound.post("/v1/completions", json=one)).status_code for one in asked]
            return listed, seen, codes

    listed, seen, codes = asyncio.run(story())
    assert {one["id"]: one["parent"] for one in listed} == {"tiny": None} | dict.fromkeys(lora.RANKS, "tiny")
    assert [one["id"] for one in seen] == ["two"]
    assert codes == [200, 404, 404]
