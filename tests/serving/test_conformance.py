"""What clients of OpenAI's interface do, done to the real engine: the official client, LangChain's, curl, and a fuzzer."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from manta.progress import Progress
from serving import deploy
from serving.door import keys
from tests.serving.fuzz import fuzz

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ASKED = [{"role": "user", "content": "the quick brown"}]
LENGTH, BODY_BYTES = 128, 50_000  # the model's tokens, the endpoint's limit
AT_ONCE, QUEUED = 4, 2
DRAWN = {"max_tokens": 40, "temperature": 1.0, "seed": 3}
FUZZ_SECONDS = 45


class Paint(BaseModel):
    """What a form asks for: of no more than a few tokens, so that a random model ends it."""

    model_config = ConfigDict(extra="forbid")
    colour: Literal["red", "green"]
    coats: Literal[1, 2, 3]


PAINT = {"type": "function", "function": {"name": "paint", "strict": True, "description": "Paint it.", "parameters": Paint.model_json_schema()}}  # fmt: skip


class Guarded(NamedTuple):
    """An endpoint with keys: one without limits, one of ten requests a minute."""

    url: str
    key: str
    slow_key: str


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory, tiny_model, serve_recipe, ray_session) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("conformance")
    file = str(folder / "keys")
    key, slow = keys.create(file, "alice")[1], keys.create(file, "bob", requests_per_minute=10)[1]
    limits = {"max_body_bytes": BODY_BYTES, "max_ongoing_requests": AT_ONCE, "max_queued_requests": QUEUED}
    recipe = serve_recipe(folder, tiny_model, keys_file=file, max_model_len=LENGTH, **limits)
    with deploy.endpoint(recipe, Progress(quiet=True)) as running:
        yield Guarded(running.url, key, slow)


@pytest.fixture(scope="module")
def no_space(tiny_model) -> dict[str, float]:
    """A bias against tokens of mere white space, which JSON allows and a random model may never stop to write."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return {str(token): -100.0 for token in range(len(tokenizer)) if tokenizer.decode([token]).isspace()}


def official(endpoint: Guarded, key: str | None = None, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{endpoint.url}/v1", api_key=key or endpoint.key, max_retries=retries, timeout=60, _strict_response_validation=True
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(endpoint) -> Iterator[openai.OpenAI]:
    with official(endpoint) as made:
        yield made


def chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": ASKED, "max_tokens": 8, "temperature": 0.0, **more})  # fmt: skip


def cut(client: openai.OpenAI, bias: dict[str, float]) -> tuple[str, str]:
    """What DRAWN has it say, and two characters from its middle that it is to stop at."""
    whole = chat(client, **DRAWN, logit_bias=bias).choices[0].message.content
    stops = (whole[place : place + 2] for place in range(4, len(whole)))
    return whole, next(stop for stop in stops if stop.isascii() and stop.isalnum() and whole.index(stop) >= 4)


class TestOfficialClient:
    """Its own models validate every answer (`_strict_response_validation`)."""

    def test_models_and_chat(self, client):
        assert [model.id for model in client.models.list()] == ["tiny"]
        answer = chat(client)
        assert answer.choices[0].message.role == "assistant"
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8

    def test_a_stream_ends_with_its_usage(self, client):
        whole = chat(client)
        chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
        *parts, last = chunks
        assert last.choices == [] and last.usage == whole.usage
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        assert text == whole.choices[0].message.content
        assert parts[-1].choices[0].finish_reason == "length"

    def test_the_clients_own_helper_for_streams(self, client, no_space):
        whole, stop = cut(client, no_space)
        asked = {"model": "tiny", "messages": ASKED, **DRAWN, "stop": [stop]}
        with client.chat.completions.stream(**asked, logit_bias=no_space) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert final.choices[0].message.content == whole[: whole.index(stop)]

    def test_several_answers_and_their_probabilities(self, client):
        answer = chat(client, n=3, temperature=1.0, seed=1, logprobs=True, top_logprobs=2)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert len({choice.message.content for choice in answer.choices}) > 1
        for choice in answer.choices:
            entries = choice.logprobs.content
            assert len(entries) == 8
            assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)

    def test_a_seed_repeats_an_answer(self, client):
        one, two, other = (
            chat(client, temperature=1.0, seed=seed, max_tokens=16).choices[0].message.content for seed in (5, 5, 6)
        )
        assert one == two != other

    def test_stop_words_end_an_answer(self, client, no_space):
        whole, stop = cut(client, no_space)
        answer = chat(client, **DRAWN, stop=[stop], logit_bias=no_space).choices[0]
        assert answer.finish_reason == "stop"
        assert answer.message.content == whole[: whole.index(stop)] != ""

    def test_completions_of_several_prompts(self, client):
        asked = {"model": "tiny", "prompt": ["the fox", "the dog"], "max_tokens": 4}
        assert [choice.text[:7] for choice in client.completions.create(**asked, echo=True).choices] == asked["prompt"]
        answer = client.completions.create(**asked, logprobs=1)
        assert all(len(choice.logprobs.token_logprobs) == 4 for choice in answer.choices)

    def test_structured_output_fits_its_schema(self, client, no_space):
        answer = client.chat.completions.parse(
            model="tiny", messages=ASKED, max_tokens=90, temperature=0.0, response_format=Paint, logit_bias=no_space
        )
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(answer.choices[0].message.parsed, Paint)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_named_tool_is_called_with_arguments_that_fit(self, client, no_space, stream):
        named = {"type": "function", "function": {"name": "paint"}}
        asked = {"tools": [PAINT], "tool_choice": named, "logit_bias": no_space}
        answer = chat(client, **asked, max_tokens=90, stream=stream)
        if stream:
            calls = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
            name = next(call.function.name for call in calls if call.function.name)
            arguments = "".join(call.function.arguments or "" for call in calls)
        else:
            [call] = answer.choices[0].message.tool_calls
            name, arguments = call.function.name, call.function.arguments
        assert name == "paint"
        Paint.model_validate_json(arguments)

    def test_a_tool_that_must_be_called_and_one_that_may(self, client, no_space):
        bias = {"tools": [PAINT], "logit_bias": no_space}
        must = chat(client, **bias, tool_choice="required", parallel_tool_calls=False, max_tokens=100).choices[0]
        [call] = must.message.tool_calls
        assert call.type == "function" and call.function.name == "paint"
        free = chat(client, **bias).choices[0]  # "auto", where nothing is said
        assert free.finish_reason == "length" and not free.message.tool_calls

    def test_the_asynchronous_client_too(self, endpoint):
        async def story() -> list[Any]:
            options = {"base_url": f"{endpoint.url}/v1", "api_key": endpoint.key, "timeout": 60}
            async with openai.AsyncOpenAI(**options) as client:
                asked = {"model": "tiny", "messages": ASKED, "max_tokens": 4, "temperature": 0.0}
                return await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(4)))

        assert len({answer.choices[0].message.content for answer in asyncio.run(story())}) == 1


class TestErrors:
    """Each refusal is the client's own exception for it."""

    @pytest.mark.parametrize(
        ("more", "kind", "code"),
        [
            ({"model": "none"}, openai.NotFoundError, "model_not_found"),
            ({"max_tokens": 10 * LENGTH}, openai.BadRequestError, None),
            ({"temperature": -1.0}, openai.BadRequestError, None),
            ({"extra_body": {"structured_outputs": [None]}}, openai.BadRequestError, None),
            ({"n": 1000}, openai.BadRequestError, "too_many_answers"),
            ({"messages": [{"role": "user", "content": "a" * BODY_BYTES}]}, openai.APIStatusError, "request_too_large"),
        ],
    )
    def test_what_is_wrong_in_a_request(self, client, more, kind, code):
        with pytest.raises(kind) as raised:
            chat(client, **more)
        assert raised.value.request_id.startswith("req-")
        assert raised.value.message
        if code:
            assert raised.value.code == code

    def test_what_is_wrong_in_a_request_for_a_stream(self, client):
        with pytest.raises(openai.BadRequestError, match="allowed_token_ids"):
            chat(client, stream=True, extra_body={"allowed_token_ids": []})

    def test_a_wrong_key(self, endpoint):
        with official(endpoint, key="sk-wrong") as stranger, pytest.raises(openai.AuthenticationError):
            chat(stranger)

    def test_over_its_rate_a_key_is_told_when_to_come_back_and_the_client_does(self, endpoint):
        with official(endpoint, endpoint.slow_key) as hasty, official(endpoint, endpoint.slow_key, 2) as patient:
            with pytest.raises(openai.RateLimitError) as raised:
                for _ in range(11):
                    chat(hasty, max_tokens=1)
            assert 1 <= int(raised.value.response.headers["retry-after"]) <= 6
            assert chat(patient, max_tokens=1).usage.completion_tokens == 1

    def test_where_too_many_ask_some_hear_503_and_with_retries_all_are_answered(self, endpoint):
        async def story(retries: int) -> list[Any]:
            options = {"base_url": f"{endpoint.url}/v1", "api_key": endpoint.key, "timeout": 120}
            async with openai.AsyncOpenAI(**options, max_retries=retries) as client:
                asked = {"model": "tiny", "prompt": "a", "max_tokens": 100, "extra_body": {"ignore_eos": True}}
                tasks = (client.completions.create(**asked) for _ in range(3 * (AT_ONCE + QUEUED)))
                return await asyncio.gather(*tasks, return_exceptions=True)

        found = asyncio.run(story(0))
        refused = [one for one in found if isinstance(one, BaseException)]
        assert refused and len(refused) < len(found)
        assert all(isinstance(one, openai.InternalServerError) and one.status_code == 503 for one in refused)
        assert all(one.response.headers["retry-after"] == "1" and one.code == "busy" for one in refused)
        assert all(one.usage.completion_tokens == 100 for one in asyncio.run(story(20)))


class TestCurl:
    def run(self, endpoint: Guarded, *words: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
        authorization = f"Authorization: Bearer {key or endpoint.key}"
        command = ["curl", "--silent", "--show-error", "--max-time", "60", "-H", authorization, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    def test_a_stream_from_a_file(self, endpoint, tmp_path):
        file = tmp_path / "question.json"
        file.write_text(json.dumps({"model": "tiny", "messages": ASKED, "max_tokens": 4, "stream": True}))
        words = ("-N", "-H", "Content-Type: application/json", "-d", f"@{file}", f"{endpoint.url}/v1/chat/completions")
        done = self.run(endpoint, *words)
        assert done.returncode == 0, done.stderr
        events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
        assert events[-1] == "[DONE]"
        assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])

    def test_without_a_content_type_it_is_told_what_is_wrong(self, endpoint):
        done = self.run(endpoint, "-d", '{"prompt": "a"}', "-w", "\n%{http_code}", f"{endpoint.url}/v1/completions")
        body, status = done.stdout.rsplit("\n", 1)
        assert status == "400"
        assert "application/json" in json.loads(body)["error"]["message"]

    def test_a_body_that_is_too_large_is_refused_in_words(self, endpoint, tmp_path):
        file = tmp_path / "large.json"
        file.write_text(json.dumps({"prompt": "a" * 2_000_000}))
        words = ("-H", "Content-Type: application/json", "-d", f"@{file}", "-w", "\n%{http_code}")
        done = self.run(endpoint, *words, f"{endpoint.url}/v1/completions")
        body, status = done.stdout.rsplit("\n", 1)
        assert (status, json.loads(body)["error"]["code"]) == ("413", "request_too_large")

    def test_health_by_head(self, endpoint):
        done = self.run(endpoint, "--head", "--fail", f"{endpoint.url}/health")
        assert done.returncode == 0 and done.stdout.startswith("HTTP/1.1 200")

    def test_fail_gives_scripts_an_exit_code(self, endpoint):
        assert self.run(endpoint, "--fail", f"{endpoint.url}/v1/models", key="sk-wrong").returncode == 22


class TestLangChain:
    @pytest.fixture
    def model(self, endpoint, no_space) -> Any:
        from langchain_openai import ChatOpenAI

        given = {"base_url": f"{endpoint.url}/v1", "api_key": endpoint.key, "model": "tiny", "logit_bias": no_space}
        return ChatOpenAI(**given, temperature=0.0, max_tokens=90, max_retries=0, timeout=60, stream_usage=True)

    def test_a_question_whole_and_in_pieces(self, model):
        whole = model.invoke([("system", "be brief"), ("human", "the quick")])
        pieces = list(model.stream([("system", "be brief"), ("human", "the quick")]))
        assert "".join(piece.content for piece in pieces) == whole.content
        assert whole.usage_metadata["output_tokens"] > 0
        assert whole.response_metadata["system_fingerprint"].startswith("manta-")
        assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == whole.usage_metadata["output_tokens"]  # fmt: skip

    def test_several_questions_at_once(self, model):
        assert len(model.batch(["the fox", "the dog", "the fox"])) == 3

    def test_structured_output(self, model):
        assert isinstance(model.with_structured_output(Paint, method="json_schema").invoke("paint"), Paint)

    def test_a_bound_tool_is_called(self, model):
        answer = model.bind_tools([PAINT], tool_choice="paint").invoke("paint")
        [call] = answer.tool_calls
        assert call["name"] == "paint"
        Paint.model_validate(call["args"])

    def test_its_exceptions(self, endpoint):
        from langchain_openai import ChatOpenAI

        wrong = ChatOpenAI(base_url=f"{endpoint.url}/v1", api_key="sk-wrong", model="tiny", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            wrong.invoke("a")


def test_z_a_fuzz_by_the_openapi_page_finds_no_fault(endpoint: Guarded, client: openai.OpenAI, tmp_path: Path) -> None:
    """No 500, and nothing that the page does not tell; the endpoint answers as before when it is over."""
    before = chat(client).choices[0].message.content
    found = fuzz(endpoint.url, endpoint.key, tmp_path, "--max-time", str(FUZZ_SECONDS))
    assert found.wrong == [], found.told[-8000:]
    print(found.requests, found.rates)  # shown when a bound below is missed
    assert found.requests > 50
    answered = {name for name, (good, _) in found.rates.items() if good}
    assert {"GET /v1/models", "POST /tokenize"} <= answered
    assert chat(client).choices[0].message.content == before
    assert deploy.is_ready(endpoint.url)
