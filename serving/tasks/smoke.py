"""One question of each task of a model, asked over HTTP: what `manta run` does before it calls an endpoint complete."""

from __future__ import annotations

from typing import Any

from manta.errors import StageFailed
from serving.door.routes import TASK_PATHS
from serving.launch import Served

# What is asked where serve.smoke holds nothing that suits the task.
USUAL: dict[str, Any] = {
    "question-answering": {"question": "Where does Ada live?", "context": "Ada lives in London."},
    "relation-extraction": {"text": "Ada works in London.", "head": [0, 3], "tail": [13, 19]},
}
SENTENCE = "Ada lives in London."


def questions(served: Served, given: list[str | dict[str, Any]]) -> list[tuple[str, Any]]:
    """(task, inputs) for each task: those of `given` that suit it, texts or objects, else one that always does."""
    found = []
    for task in served.tasks:
        if task in USUAL:
            suited: list[Any] = [one for one in given if isinstance(one, dict) and set(one) == set(USUAL[task])]
        else:
            suited = [one for one in given if isinstance(one, str)]
        usual = USUAL.get(task, SENTENCE)
        if task == "fill-mask":
            suited = [one for one in suited if str(served.mask_token) in one]
            usual = f"Ada lives in {served.mask_token}."
        found += [(task, one) for one in suited or [usual]]
    return found


def ask(client: Any, served: Served, task: str, inputs: Any) -> dict[str, Any]:
    """One answer, for the transcript. `client` is an OpenAI client. Raises StageFailed where another model gave it."""
    import httpx

    parameters = {"src_lang": "English", "tgt_lang": "German"} if task == "translation" and not served.taught else {}
    body = {"model": served.name, "inputs": inputs, "parameters": parameters}
    answer = client.post(TASK_PATHS[task].removeprefix("/v1"), body=body, cast_to=httpx.Response)
    told = answer.headers.get("x-manta-fingerprint")
    if told != served.fingerprint:
        raise StageFailed(
            f"the answer of {served.name} carries the fingerprint {told!r}, but it is {served.fingerprint!r}"
        )
    return {"question": inputs, "answer": answer.json(), "task": task, "model": served.name, "fingerprint": told}
