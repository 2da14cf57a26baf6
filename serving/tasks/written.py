"""What translation and summarization share: an encoder-decoder reads a text as in training, and writes another."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from manta.sections.tasks import TextToText
from manta.tasks.encoding import seq2seq
from serving.tasks import asked
from serving.tasks.asked import Strict, Truncation, Wrong
from serving.tasks.model import ENDLESS, Model, Row

MAX_NEW_TOKENS, MAX_BEAMS = 1024, 16  # that a request may ask for
NEW_TOKENS = 256  # of models of which nothing is known


class Generation(Strict):
    max_new_tokens: Annotated[int, Field(gt=0, le=MAX_NEW_TOKENS)] | None = None  # those of training
    num_beams: Annotated[int, Field(gt=0, le=MAX_BEAMS)] | None = None  # those of training; 1 is greedy


class Parameters(Generation):
    """Both may also stand in `generate_parameters`, as in Hugging Face's inference API."""

    generate_parameters: dict[str, Any] | None = None
    truncation: Truncation | None = None  # cut what is too long, instead of refusing it


def item(where: str, given: Any) -> str:
    """A text."""
    return asked.text(where, given)


def rows(
    found: str, where: str, parameters: Parameters, model: Model, settings: TextToText, task: ModuleType
) -> list[Row]:
    """The one row of a text, behind the task's prefix. Raises Wrong for a text that is too long."""
    limit = longest(model, settings)
    whole = seq2seq.question({"input": found}, model.tokenizer, _reading(settings, ENDLESS), model.config, task)[0]
    if len(whole) > limit and not asked.cuts(parameters.truncation):
        raise Wrong(
            where,
            f"`{where}` has {len(whole)} tokens, over the {limit} that the model takes: shorten it, or set `parameters.truncation` to true.",
        )
    ids = seq2seq.question({"input": found}, model.tokenizer, _reading(settings, limit), model.config, task)[0]
    model.require_fits(where, len(ids))
    new, beams = manner(parameters, model, settings, task)
    return [Row({"input_ids": ids, "attention_mask": [1] * len(ids)}, None, (new, beams))]


def text(outputs: list[Any], model: Model, task: ModuleType) -> str:
    """What was written."""
    return str(task.decode(model.tokenizer.decode(outputs[0], skip_special_tokens=True)))


def manner(parameters: Parameters, model: Model, settings: TextToText, task: ModuleType) -> tuple[int, int]:
    """(most new tokens, beams): as asked, else as the model was tuned. Raises Wrong."""
    inner = asked.section("parameters.generate_parameters", Generation, parameters.generate_parameters or {})
    new = parameters.max_new_tokens or inner.max_new_tokens
    known = task.max_new_tokens(settings) if model.taught else NEW_TOKENS
    return new or known, parameters.num_beams or inner.num_beams or settings.beams


def longest(model: Model, settings: TextToText) -> int:
    """Tokens that the encoder reads at most. T5 has no end of its own: what it was tuned with, or was taught with, counts."""
    if model.limit is not None:
        return model.limit
    return max(settings.max_input_tokens, int(model.config.get("n_positions") or 512))


def _reading(settings: TextToText, tokens: int) -> TextToText:
    return settings.model_copy(update={"max_input_tokens": tokens})
