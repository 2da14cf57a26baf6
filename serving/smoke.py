"""The `serve` stage of a pipeline: start the endpoint for real, ask it questions over HTTP, shut it down, keep the answers."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

from manta.artifact import Draft, Resolved
from manta.errors import StageFailed
from manta.progress import Progress
from manta.schema import Recipe, ServeRecipe
from serving import launch as launches
from serving.deploy import Running, endpoint
from serving.launch import Launch, Served
from serving.tasks import smoke as tasks

MAX_TOKENS = 48
TRANSCRIPT = "transcript.json"
DEFAULT_QUESTION = "Hello"


def check(recipe: Recipe, inputs: Mapping[str, Resolved]) -> None:
    """Refuse before anything starts what cannot be served: see `launch.prepare`."""
    assert isinstance(recipe, ServeRecipe)
    launches.prepare(recipe, inputs)


def run(recipe: Recipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Ask each model what of `serve.smoke` suits it: those that write text twice, whole and as a stream. Writes transcript.json.

    Answers are greedy, so that the transcript is the same each time; what depends on the moment is in the figures.
    Raises StageFailed when the endpoint does not start or answers wrongly.
    """
    assert isinstance(recipe, ServeRecipe)
    with endpoint(recipe, progress, draft.inputs, own_key=True) as running:
        asked = list(_questions(running.launch, recipe.serve.smoke))
        progress.note(f"ready after {running.ready_seconds:.1f} s: asking {len(asked)} question(s) at {running.url}/v1")
        transcript, first_token_ms, tokens, seconds = [], [], 0, 0.0
        with _client(running) as client:
            _expect_models(client, running.launch.models)
            for number, (served, model, task, question) in enumerate(asked, 1):
                started = time.monotonic()
                if task is None:
                    entry = _ask(client, running.launch, model, question)
                    seconds += time.monotonic() - started
                    tokens += entry["completion_tokens"]
                    first_token_ms.append(_stream(client, model, question))
                else:
                    entry = tasks.ask(client, served, task, question)
                transcript.append(entry)
                progress.update(number, len(asked), "questions")
    draft.folder.write_text(TRANSCRIPT, json.dumps(transcript, indent=2, ensure_ascii=False) + "\n")
    figures = {
        "answers": len(transcript),
        "question": transcript[0]["question"],
        "answer": transcript[0]["answer"],
        "ready_seconds": round(running.ready_seconds, 1),
    }
    if not first_token_ms:
        return figures
    return figures | {
        "first_token_ms": round(statistics.median(first_token_ms), 1),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
    }


def _questions(launch: Launch, given: list[str | dict[str, Any]]) -> Iterator[tuple[Served, str, str | None, Any]]:
    """(model, the name to ask it by, its task or None for text, the question) of all there is to ask."""
    for served in launch.served:
        if served.tasks:
            yield from ((served, served.name, task, one) for task, one in tasks.questions(served, given))
            continue
        texts = [one for one in given if isinstance(one, str)] or [DEFAULT_QUESTION]
        yield from ((served, name, None, one) for name in served.names for one in texts)


def _client(running: Running) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0, timeout=300)


def _expect_models(client: Any, names: tuple[str, ...]) -> None:
    listed = [model.id for model in client.models.list()]
    if listed != list(names):
        raise StageFailed(f"the endpoint lists the models {listed}, not {list(names)}")


def _ask(client: Any, launch: Launch, model: str, question: str) -> dict[str, Any]:
    """One whole answer, with proof that it came from the model the recipe names."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=MAX_TOKENS, temperature=0.0, seed=0
    )
    answer = raw.parse()
    told = raw.headers.get("x-manta-fingerprint")
    served = launch.find(model)
    assert served is not None
    wanted = served.fingerprints(model)
    if told != wanted[-1] or answer.system_fingerprint != launches.system_fingerprint(*wanted):
        raise StageFailed(f"the answer of {model} carries the fingerprint {told!r}, but it is {wanted[-1]!r}")
    choice = answer.choices[0]
    return {
        "question": question,
        "answer": choice.message.content or "",
        "finish_reason": choice.finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "model": answer.model,
        "fingerprint": told,
    }


def _stream(client: Any, model: str, question: str) -> float:
    """Milliseconds to the first token of a streamed answer. Raises StageFailed when the stream ends without a reason."""
    started = time.monotonic()
    first, reason = None, None
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        stream=True,
    )
    for chunk in stream:
        choice = chunk.choices[0]
        if first is None and (choice.delta.content or choice.finish_reason):
            first = (time.monotonic() - started) * 1000
        reason = choice.finish_reason or reason
    if first is None or reason is None:
        raise StageFailed("a streamed answer ended before it was finished")
    return first
