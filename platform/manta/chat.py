"""Talk to a model: an endpoint's URL, or an artifact or directory that is served for as long as the talk lasts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from manta.artifact import Resolved
from manta.errors import InputError, StageFailed

COMMANDS = "/clear forgets the conversation, /quit ends it (so does Ctrl-D)"


def chat(
    target: str,
    *,
    key: str | None = None,
    model: str | None = None,
    system: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.7,
) -> int:
    """Read lines from stdin and stream the answers to stdout, until /quit or the end of input. Returns the exit code.

    `target` is an endpoint's URL, or an artifact or Hugging Face directory to serve meanwhile. `key` is the endpoint's
    API key (none: that of $MANTA_API_KEY), `model` one of its models (its first, if none is named), `system` a first message that sets the tone.
    Raises InputError when nothing answers at the URL or it refuses, StageFailed when it breaks off.
    """
    with _endpoint(target) as (url, own_key), _explained(url):
        from openai import OpenAI

        given = own_key or key or os.environ.get("MANTA_API_KEY") or "none"
        client = OpenAI(base_url=f"{url}/v1", api_key=given, max_retries=1)
        named = model or next(iter(client.models.list())).id
        _talk(client, named, system, {"max_tokens": max_tokens, "temperature": temperature}, sys.stdin, sys.stdout)
    return 0


def _talk(client: Any, model: str, system: str | None, settings: dict[str, Any], source: TextIO, out: TextIO) -> None:
    """The conversation itself. Piped input gives plain answers on `out`, without prompts."""
    start = [{"role": "system", "content": system}] if system else []
    history = list(start)
    person = source.isatty()
    if person:
        out.write(f"{model}: {COMMANDS}\n")
    while True:
        if person:
            _write(out, "> ")
        line = source.readline()
        if not line:
            break
        said = line.strip()
        if said == "/quit":
            return
        if said == "/clear":
            history = list(start)
            continue
        if not said:
            continue
        history.append({"role": "user", "content": said})
        answer = _fitting_answer(client, model, history, len(start), settings, out)
        history.append({"role": "assistant", "content": answer})
    if person:
        _write(out, "\n")


def _write(out: TextIO, text: str) -> None:
    out.write(text)
    out.flush()


def _fitting_answer(
    client: Any, model: str, history: list[dict[str, str]], keep: int, settings: dict[str, Any], out: TextIO
) -> str:
    """Answer the last message; while the model refuses the whole, forget the oldest turn after the first `keep` messages."""
    from openai import BadRequestError

    while True:
        try:
            return _answer(client, model, history, settings, out)
        except BadRequestError:
            if len(history) <= keep + 1:
                raise
            del history[keep : keep + 2]


def _answer(client: Any, model: str, history: list[dict[str, str]], settings: dict[str, Any], out: TextIO) -> str:
    """Stream one answer to `out`. Ctrl-C ends the answer, not the conversation; what came so far is kept."""
    pieces: list[str] = []
    with contextlib.suppress(KeyboardInterrupt):
        with client.chat.completions.create(model=model, messages=history, stream=True, **settings) as stream:
            for chunk in stream:
                piece = chunk.choices[0].delta.content if chunk.choices else None
                if piece:
                    pieces.append(piece)
                    _write(out, piece)
    _write(out, "\n")
    return "".join(pieces)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """The client's errors as messages that say what to do."""
    import openai

    try:
        yield
    except openai.AuthenticationError as error:
        raise InputError(f"{url} asks for another API key: pass one of its keys with --key") from error
    except openai.NotFoundError as error:
        raise InputError(f"{url}: {_message(error)}") from error
    except openai.BadRequestError as error:
        raise InputError(
            f"{url} refused the request: {_message(error)}; /clear shortens a long conversation"
        ) from error
    except openai.APIConnectionError as error:
        raise InputError(
            f"nothing answers at {url}: check the address, or start an endpoint with `manta serve RECIPE`"
        ) from error
    except openai.APIError as error:
        raise StageFailed(f"{url} failed: {_message(error)}") from error


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)


@contextlib.contextmanager
def _endpoint(target: str) -> Iterator[tuple[str, str | None]]:
    """The URL to talk to; a model is served on a free loopback port until the block ends, to whoever has its key."""
    if target.startswith(("http://", "https://")):
        yield target.rstrip("/").removesuffix("/v1"), None
        return
    from manta import artifact, cluster
    from manta.progress import Progress
    from manta.recipe import input_refs
    from manta.schema import ServeRecipe
    from manta.sections.outcome import ServeModel, ServeSettings
    from serving.deploy import endpoint

    recipe = ServeRecipe(kind="serve", name="chat", model=ServeModel(source=target), serve=ServeSettings(port=0))
    [(ref, marker)] = input_refs(recipe).values()
    source: Resolved = artifact.resolve("model.source", ref, marker, recipe.output)
    progress = Progress()
    try:
        # One's own ears are the proof here: a compressed model may be tried out before it is evaluated.
        with endpoint(recipe, progress, {"model.source": source}, proven=False, own_key=True) as running:
            yield running.url, running.key
    finally:
        cluster.disconnect()
