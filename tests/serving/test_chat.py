"""The conversation of `manta chat` with a client that only remembers what it was asked."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from manta import chat
from manta.errors import InputError


class FakeClient:
    """Answers "one two" in two pieces; refuses more than `most` messages, as a model with a short context does."""

    def __init__(self, most: int = 100):
        self.asked: list[list[str]] = []
        self.most = most
        self.chat = SimpleNamespace(completions=self)

    def create(self, *, messages: list[dict[str, str]], **_: Any) -> Any:
        if len(messages) > self.most:
            request = httpx.Request("POST", "http://test")
            raise openai.BadRequestError(
                "too long", response=httpx.Response(400, request=request), body={"message": "too long"}
            )
        self.asked.append([message["content"] for message in messages])
        return Stream(
            SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content=piece))])
            for piece in ("one ", "two", None)
        )


class Stream:
    def __init__(self, chunks: Any):
        self.chunks = chunks

    def __enter__(self) -> Any:
        return self.chunks

    def __exit__(self, *_: object) -> None:
        return None


def talk(client: FakeClient, said: str, system: str | None = None) -> str:
    out = io.StringIO()
    chat._talk(client, "m", system, {}, io.StringIO(said), out)
    return out.getvalue()


def test_piped_input_gives_plain_answers_and_keeps_the_history():
    client = FakeClient()
    assert talk(client, "first\n\n  second  \n") == "one two\none two\n"
    assert client.asked == [["first"], ["first", "one two", "second"]]


def test_clear_keeps_only_the_system_message():
    client = FakeClient()
    talk(client, "first\n/clear\nsecond\n", system="be kind")
    assert client.asked == [["be kind", "first"], ["be kind", "second"]]


def test_quit_ends_it():
    client = FakeClient()
    assert talk(client, "/quit\nnever\n") == ""
    assert client.asked == []


def test_the_oldest_turn_is_forgotten_when_the_context_is_full():
    client = FakeClient(most=4)
    talk(client, "a\nb\nc\n", system="s")
    assert client.asked == [["s", "a"], ["s", "a", "one two", "b"], ["s", "b", "one two", "c"]]


def test_a_message_that_is_too_long_by_itself_is_explained():
    with pytest.raises(InputError, match="too long"), chat._explained("http://x"):
        talk(FakeClient(most=0), "a\n")


def test_nothing_at_the_address(free_port):
    with pytest.raises(InputError, match="nothing answers"):
        chat.chat(f"http://127.0.0.1:{free_port}/v1")
