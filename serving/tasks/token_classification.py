"""token-classification: a text, and the parts of it that are names of something. Tokens become words by Transformers' pipeline."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import Field

from serving.tasks import asked, passes
from serving.tasks.asked import Strict, Wrong
from serving.tasks.model import Model, Row

COMPUTE = passes.logits


class Parameters(Strict):
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = None  # see `strategy`
    ignore_labels: list[str] | None = None  # ["O"]
    stride: Annotated[int, Field(ge=0)] | None = None  # read a long text in windows that share so many tokens


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    del model
    return {"inputs": "a text"}


def item(where: str, given: Any) -> str:
    """A text."""
    return asked.text(where, given)


def rows(found: str, where: str, parameters: Parameters, model: Model) -> list[Row]:
    """The row of a text, with `stride` several. Raises Wrong for a text that is too long."""
    length = len(model.tokenizer(found)["input_ids"])
    given: dict[str, Any] = {}
    if parameters.stride is not None:
        room = (model.limit or length) - model.tokenizer.num_special_tokens_to_add()
        if strategy(parameters, model) == "none" or parameters.stride >= room:
            raise Wrong(
                "parameters.stride",
                f"`parameters.stride` = {parameters.stride} needs an aggregation_strategy other than none, and to be below {room}.",
            )
        given = {"tokenizer_params": {"return_overflowing_tokens": True, "padding": True, "stride": parameters.stride}}
        if model.max_prompt_tokens is not None and length > model.max_prompt_tokens:
            model.require_fits(where, length)
    else:
        model.require_fits(where, length, "set `parameters.stride`, and it is read in windows")
    parts = _pipeline(model).preprocess(found, is_split_into_words=False, **given)
    return [Row({name: part[name][0].tolist() for name in passes.READ if name in part}, part) for part in parts]


def answer(found: str, made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """[{"entity_group", "score", "word", "start", "end"}], or with the strategy none of each token {"entity", "index", ...}."""
    import torch
    from transformers.pipelines.token_classification import AggregationStrategy

    del found
    parts = [
        {"offset_mapping": None, **row.notes, "logits": torch.from_numpy(logits)[None]}
        for row, logits in zip(made, outputs, strict=True)
    ]
    chosen = AggregationStrategy(strategy(parameters, model))
    told = _pipeline(model).postprocess(parts, aggregation_strategy=chosen, ignore_labels=parameters.ignore_labels)
    return [{name: value.item() if hasattr(value, "item") else value for name, value in one.items()} for one in told]


def strategy(parameters: Parameters, model: Model) -> str:
    """How tokens become words: as asked. Else "first" for models that Manta tuned, which learn the first token of a word
    alone, and "simple", Hugging Face's, for others."""
    return parameters.aggregation_strategy or ("first" if (model.taught or {}).get("name") == "tagging" else "simple")


@functools.lru_cache(maxsize=4)
def _pipeline(model: Model) -> Any:
    """Transformers' pipeline, of which the ends are used: the model between them answers in batches."""
    from transformers import TokenClassificationPipeline

    return TokenClassificationPipeline(model=model.network, tokenizer=model.tokenizer)
