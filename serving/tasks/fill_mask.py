"""fill-mask: a text with gaps, and what most likely stands in each."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from serving.tasks import asked, passes
from serving.tasks.asked import Strict, Wrong
from serving.tasks.model import Model, Row

COMPUTE = passes.gaps
USUAL = 5  # fillings of a gap, where nothing is said


class Parameters(Strict):
    top_k: Annotated[int, Field(gt=0, le=1000)] | None = None
    targets: str | list[str] | None = None  # choose among these alone


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    return {"inputs": f"a {model.tokenizer.mask_token}"}


def item(where: str, given: Any) -> str:
    """A text; that it has gaps is seen when it is made into tokens."""
    return asked.text(where, given)


def rows(found: str, where: str, parameters: Parameters, model: Model) -> list[Row]:
    """The one row of a text. Raises Wrong without a gap."""
    targets(parameters, model)
    given = model.tokenizer(found, return_attention_mask=True)
    ids = list(given["input_ids"])
    model.require_fits(where, len(ids))
    places = tuple(place for place, token in enumerate(ids) if token == model.tokenizer.mask_token_id)
    if not places:
        raise Wrong(where, f"`{where}` has no gap: write {model.tokenizer.mask_token} where a word is to be found.")
    return [Row({name: list(values) for name, values in given.items()}, places)]


def answer(found: str, made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """[{"score", "token", "token_str", "sequence"}] of the gap, likeliest first; of several gaps a list of these.

    A score is the probability among all words of the vocabulary, with `targets` as well.
    """
    import numpy as np

    del found
    ids, places = made[0].columns["input_ids"], made[0].notes
    among = targets(parameters, model)
    filled = []
    for place, logprobs in zip(places, outputs[0], strict=True):
        known = np.arange(len(logprobs)) if among is None else np.array(among)
        best = known[np.argsort(-logprobs[known], kind="stable")[: parameters.top_k or USUAL]]
        gap = []
        for token in best.tolist():
            sequence = model.tokenizer.decode([*ids[:place], token, *ids[place + 1 :]], skip_special_tokens=len(places) == 1)  # fmt: skip
            word = model.tokenizer.decode([token])
            gap.append({"score": float(np.exp(logprobs[token])), "token": token, "token_str": word, "sequence": sequence})  # fmt: skip
        filled.append(gap)
    return filled if len(filled) > 1 else filled[0]


def targets(parameters: Parameters, model: Model) -> list[int] | None:
    """The ids of `parameters.targets`. Raises Wrong for one that is no single token."""
    if parameters.targets is None:
        return None
    given = [parameters.targets] if isinstance(parameters.targets, str) else parameters.targets
    asked.count("parameters.targets", given)
    found, unknown = [], model.tokenizer.unk_token_id
    for word in given:
        number = model.tokenizer.convert_tokens_to_ids(word)
        ids = (
            [number] if number not in (None, unknown) else model.tokenizer(word, add_special_tokens=False)["input_ids"]
        )
        if len(ids) != 1 or ids[0] == unknown:
            raise Wrong("parameters.targets", f"`parameters.targets`: {word[:50]!r} is not one token of this model.")
        found.append(int(ids[0]))
    return list(dict.fromkeys(found))
