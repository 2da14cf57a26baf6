"""feature-extraction: texts as vectors. /v1/embeddings gives the same in OpenAI's shape: see `embeddings`."""

from __future__ import annotations

from typing import Any

from serving.tasks import asked, passes
from serving.tasks.asked import Strict, Truncation
from serving.tasks.model import Model, Row

COMPUTE = passes.vectors
LOOSE = True  # parameters may stand beside `inputs`, where Hugging Face's client puts them


class Parameters(Strict):
    normalize: bool | None = None  # to length 1, as the model was trained
    truncate: Truncation | None = None  # cut what is too long, instead of refusing it


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    del model
    return {"inputs": "a text"}


def item(where: str, given: Any) -> str:
    """A text."""
    return asked.text(where, given)


def rows(found: str, where: str, parameters: Parameters, model: Model) -> list[Row]:
    """The one row of a text. Raises Wrong for one that is too long."""
    given = model.tokenizer(found, return_attention_mask=True)
    length = len(given["input_ids"])
    if asked.cuts(parameters.truncate) and model.limit is not None and length > model.limit:
        given = model.tokenizer(found, return_attention_mask=True, truncation=True, max_length=model.limit)
        length = len(given["input_ids"])
    model.require_fits(where, length, "shorten it, or have it truncated")
    return [Row({name: list(values) for name, values in given.items()})]


def answer(found: str, made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """The text's vector as numbers."""
    del found, made
    return vector(outputs[0], model, parameters.normalize).tolist()


def vector(output: Any, model: Model, normalize: bool | None = None) -> Any:
    """float32 (width,); of length 1 where that is asked, or nothing is and the model was trained so."""
    import numpy as np

    if normalize is False or (normalize is None and not normalizes(model)):
        return output
    return output / max(float(np.linalg.norm(output)), 1e-12)


def normalizes(model: Model) -> bool:
    """Whether vectors have length 1: where sentence-transformers' files say so, or there are none."""
    file = model.folder / "modules.json"
    return not file.exists() or "Normalize" in file.read_text(encoding="utf-8")
