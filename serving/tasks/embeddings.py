"""/v1/embeddings: texts or token ids as vectors, in OpenAI's shape."""

from __future__ import annotations

import base64
from typing import Any, Literal

from serving.tasks import asked, feature_extraction
from serving.tasks.asked import Strict, Wrong
from serving.tasks.model import Model, Row


class Body(Strict):
    """What may stand in a request; `user` is for logs of other endpoints and read by none here."""

    model: str | None = None
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


def read(told: dict[str, Any], model: Model) -> tuple[Body, list[Row]]:
    """A request and a row for each of its inputs. Raises Wrong."""
    body = asked.section("", Body, told)
    width = int(model.network.config.hidden_size)
    if body.dimensions not in (None, width):
        raise Wrong("dimensions", f"`dimensions` = {body.dimensions}: this model's vectors have {width}, and no other number.")  # fmt: skip
    given: list[Any] = [body.input] if isinstance(body.input, str) or _is_ids(body.input) else list(body.input)
    asked.count("input", given)
    alone = given == [body.input]
    return body, [_row("input" if alone else f"input[{place}]", one, model) for place, one in enumerate(given)]


def answer(body: Body, rows: list[Row], outputs: list[Any], model: Model, name: str) -> dict[str, Any]:
    """The vectors, in the order of the inputs."""
    data = []
    for place, output in enumerate(outputs):
        vector = feature_extraction.vector(output, model)
        told = base64.b64encode(vector.astype("<f4").tobytes()).decode() if body.encoding_format == "base64" else vector.tolist()  # fmt: skip
        data.append({"object": "embedding", "index": place, "embedding": told})
    tokens = sum(row.length for row in rows)
    return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _row(where: str, given: Any, model: Model) -> Row:
    if not _is_ids(given):
        parameters = feature_extraction.Parameters()
        return feature_extraction.rows(asked.text(where, given), where, parameters, model)[0]
    size = int(model.network.config.vocab_size)
    if any(not 0 <= token < size for token in given):
        raise Wrong(where, f"`{where}` holds a number that is no token of this model (0 to {size - 1}).")
    model.require_fits(where, len(given))
    columns = {"input_ids": list(given), "attention_mask": [1] * len(given)}
    types = {"token_type_ids": [0] * len(given)} if "token_type_ids" in model.tokenizer.model_input_names else {}
    return Row({**columns, **types})


def _is_ids(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(token) is int for token in given)
