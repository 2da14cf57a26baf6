"""Asks a server that speaks OpenAI's chat completions: several requests at once, answers in order, trouble waited out."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from manta.data.augment.job import Made
from manta.errors import InputError, StageFailed
from manta.sections.augment import Endpoint, Writer

if TYPE_CHECKING:
    from manta.data.augment.writing import Ask

AHEAD = 4  # requests that wait for a thread, for each that runs: a slow answer must not leave the others idle


def answers(asks: Iterator[Ask], writer: Writer, where: str) -> Iterator[Made]:
    """The answers in the order of the asks, `concurrency` requests at a time.

    429, 5xx and broken connections are tried again as often as `retries` says, after the seconds of Retry-After or
    after waits that double. Raises StageFailed when the endpoint still does not answer, InputError when it refuses the
    key, the model or the request.
    """
    assert writer.endpoint is not None
    settings = writer.endpoint
    client = _client(settings, where)
    pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="manta-ask")
    waiting: deque[Future[Made]] = deque()
    try:
        for ask in asks:
            waiting.append(pool.submit(_ask, client, ask, writer, settings, where))
            if len(waiting) >= AHEAD * settings.concurrency:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@functools.lru_cache(4)
def _client(settings: Endpoint, where: str) -> Any:
    from openai import OpenAI

    key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else "none"
    if not key:
        raise InputError(
            f"{where}.endpoint.api_key_env = {settings.api_key_env!r}: the variable is not set on this node: export the key"
        )
    return OpenAI(base_url=settings.url, api_key=key, timeout=settings.timeout_s, max_retries=settings.retries)


def _ask(client: Any, ask: Ask, writer: Writer, settings: Endpoint, where: str) -> Made:
    import openai

    place = f"{where}.endpoint"
    try:
        reply = client.chat.completions.create(
            model=settings.model,
            messages=[{"role": "user", "content": ask.prompt}],
            max_tokens=writer.max_new_tokens,
            temperature=writer.temperature,
            seed=ask.seed,
        )
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise InputError(
            f"{place}.api_key_env = {settings.api_key_env!r}: {settings.url} refuses the key ({_message(error)}): set another"
        ) from error
    except openai.NotFoundError as error:
        raise InputError(
            f"{place}.model = {settings.model!r}: {settings.url} does not know it ({_message(error)}): check url and model"
        ) from error
    except openai.BadRequestError as error:
        return _refused(error, settings, place)
    except openai.APIStatusError as error:
        if error.status_code < 500 and error.status_code not in (408, 409, 429):
            raise InputError(f"{place}.url = {settings.url!r} refuses the request: {_message(error)}") from error
        raise _gave_up(error, settings, place) from error
    except openai.APIConnectionError as error:
        raise _gave_up(error, settings, place) from error
    return _made(reply, settings, place)


def _made(reply: Any, settings: Endpoint, place: str) -> Made:
    choices = getattr(reply, "choices", None)
    if not choices:
        raise InputError(
            f"{place}.url = {settings.url!r} answers, but not with chat completions: give the base URL, which ends with /v1 "
            "on most servers"
        )
    reason, text = choices[0].finish_reason, (choices[0].message.content or "").strip()
    if reason == "length":
        return Made("", "cut_off")
    if reason == "content_filter":
        return Made("", "refused")
    return Made(text) if text else Made("", "empty")


def _refused(error: Any, settings: Endpoint, place: str) -> Made:
    """Of a bad request: is this text too long or unwelcome, or would every request be refused?"""
    message = _message(error)
    if error.code == "context_length_exceeded" or "context length" in message.lower():
        return Made("", "too_long")
    if error.code == "content_filter":
        return Made("", "refused")
    raise InputError(f"{place}.url = {settings.url!r} refuses the request: {message}") from error


def _gave_up(error: Any, settings: Endpoint, place: str) -> StageFailed:
    return StageFailed(
        f"{place}.url = {settings.url!r} does not answer after {settings.retries + 1} attempts ({_message(error)}): "
        "see that it runs, lower concurrency or raise timeout_s and retries, then run the stage again"
    )


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)
