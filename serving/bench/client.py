"""One streamed request as a client sees it: when its tokens came, how many there were, or how it failed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from manta.errors import InputError
from serving.bench.options import APIS, Options

LINE_BYTES = 2**20  # the longest event that is read


@dataclass
class Sample:
    """One request. Moments are the event loop's clock in seconds; `due` is when it should have been sent."""

    due: float
    ended: float = 0.0
    first: float | None = None  # the first token
    last: float | None = None  # the last
    gaps: list[float] = field(default_factory=list)  # between pieces of the stream that carried text
    prompt_tokens: int | None = None
    new_tokens: int = 0
    error: str | None = None  # the kind of failure
    said: str = ""  # what the endpoint said to it

    @property
    def ttft(self) -> float:
        """Time to the first token, from when the request was due: a late client does not flatter the endpoint."""
        assert self.first is not None
        return self.first - self.due

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first; None for an answer of one token."""
        assert self.first is not None
        assert self.last is not None
        return (self.last - self.first) / (self.new_tokens - 1) if self.new_tokens > 1 else None


class Refused(Exception):
    """The endpoint answered with an error: `kind` for the count of errors."""

    def __init__(self, kind: str, said: str):
        super().__init__(said)
        self.kind = kind


class Client:
    """A session of kept connections, as many as the load needs."""

    def __init__(self, session: Any, options: Options):
        self._session = session
        self._options = options
        self.model = options.model or ""

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, options: Options) -> AsyncIterator[Client]:
        """Check that the endpoint answers, takes the key and knows the model. Raises InputError."""
        import aiohttp

        headers = {"authorization": f"Bearer {options.key}"} if options.key else {}
        timeout = aiohttp.ClientTimeout(total=options.timeout)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=connector, read_bufsize=LINE_BYTES
        ) as session:
            client = cls(session, options)
            await client._find_model()
            yield client

    async def _find_model(self) -> None:
        import aiohttp

        base, wanted = self._options.base, self._options.model
        try:
            async with self._session.get(f"{base}/v1/models") as answer:
                if answer.status in (401, 403):
                    raise InputError(
                        f"{base} asks for another API key: pass one of its keys with --key, or set MANTA_API_KEY"
                    )
                if answer.status != 200:
                    raise InputError(f"{base}/v1/models answers {answer.status}: is it an OpenAI-compatible endpoint?")
                listed = [model["id"] for model in (await answer.json())["data"]]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise InputError(f"nothing answers at {base} ({type(error).__name__}): check the address") from error
        if not listed or (wanted is not None and wanted not in listed):
            raise InputError(f"--model = {wanted!r}: {base} serves {', '.join(listed) or 'no model'}: name one of them")
        self.model = wanted or listed[0]

    def body(self, prompt: Any, new_tokens: int) -> dict[str, Any]:
        """A request for `prompt`: a text, or messages for the chat."""
        if self._options.api == "chat":
            asked = {"messages": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt}
        else:
            asked = {"prompt": prompt}
        extra = {"ignore_eos": True} if self._options.ignore_eos else {}
        return {"model": self.model, **asked, "max_tokens": new_tokens, "temperature": 0.0, **extra}

    async def count(self, prompt: str) -> int:
        """How many tokens the endpoint makes of a prompt. Raises InputError when it does not say."""
        import aiohttp

        try:
            async with self._post(self.body(prompt, 1)) as answer:
                data = await answer.json()
        except Refused as refused:
            raise InputError(f"{self._options.base} refused a first request ({refused.kind}): {refused}") from refused
        except (aiohttp.ClientError, TimeoutError) as error:
            raise InputError(f"{self._options.base} did not answer a first request ({type(error).__name__})") from error
        if not (found := (data.get("usage") or {}).get("prompt_tokens")):
            raise InputError(
                f"{self._options.base} does not tell how many tokens a prompt has: use --prompts FILE instead of --prompt-tokens"
            )
        return int(found)

    async def ask(self, prompt: Any, due: float) -> Sample:
        """Send one request and read its stream to the end. Failures are noted in the sample, not raised."""
        import aiohttp

        sample = Sample(due)
        body = self.body(prompt, self._options.new_tokens)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._post(body) as answer:
                await read(answer.content, sample)
        except Refused as refused:
            sample.error, sample.said = refused.kind, str(refused)
        except TimeoutError:
            sample.error = "timeout"
        except aiohttp.ClientConnectorError as error:
            sample.error, sample.said = "connection_refused", str(error)
        except ValueError as error:
            sample.error, sample.said = "unreadable_stream", str(error)
        except (aiohttp.ClientError, ConnectionError) as error:
            sample.error, sample.said = "broken_connection", str(error) or type(error).__name__
        sample.ended = asyncio.get_running_loop().time()
        return sample

    @contextlib.asynccontextmanager
    async def _post(self, body: dict[str, Any]) -> AsyncIterator[Any]:
        async with self._session.post(f"{self._options.base}{APIS[self._options.api]}", json=body) as answer:
            if answer.status != 200:
                raise Refused(f"http_{answer.status}", _message(await answer.text()))
            yield answer


async def read(lines: AsyncIterator[bytes], sample: Sample) -> None:
    """Read a stream of server-sent events until `[DONE]`. Raises Refused when it carries an error or breaks off."""
    clock = asyncio.get_running_loop().time
    pieces = 0
    async for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            sample.new_tokens = sample.new_tokens or pieces
            if sample.first is None:
                raise Refused("empty_answer", "the stream brought no token")
            return
        event = json.loads(data)
        if "error" in event:
            raise Refused("error_event", _message(data.decode()))
        if usage := event.get("usage"):
            sample.prompt_tokens, sample.new_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens") or 0
        for choice in event.get("choices", ()):
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            if not text and not choice.get("finish_reason"):
                continue
            moment = clock()
            if text:
                pieces += 1
                if sample.last is not None:
                    sample.gaps.append(moment - sample.last)
            sample.first = moment if sample.first is None else sample.first
            sample.last = moment
    raise Refused("broken_stream", "the stream ended without [DONE]")


def _message(text: str) -> str:
    """The words of an error in OpenAI's shape, or the beginning of whatever came instead."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
