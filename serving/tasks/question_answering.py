"""question-answering: a question, a context, and the part of it that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from manta.errors import InputError
from manta.sections.tasks import AnsweringTask
from manta.tasks import answering
from manta.tasks.encoding.windows import OUTSIDE
from manta.tasks.labels import Labels
from serving.tasks import asked, passes
from serving.tasks.asked import Strict, Wrong
from serving.tasks.model import Model, Row

COMPUTE = passes.logits
Count = Annotated[int, Field(gt=0)]


class Parameters(Strict):
    top_k: Annotated[int, Field(gt=0, le=100)] | None = None  # 1
    max_answer_len: Count | None = None  # tokens; this and the next: what the model was tuned with
    max_seq_len: Count | None = None  # of the question and a window of its context
    doc_stride: Annotated[int, Field(ge=0)] | None = None  # tokens that windows share
    handle_impossible_answer: bool | None = None  # "" where none is likelier than the best one


class _Item(Strict):
    question: str
    context: str


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    del model
    return {"inputs": {"question": "Who?", "context": "Ada."}}


def item(where: str, given: Any) -> dict[str, str]:
    """{"question", "context"}."""
    if not isinstance(given, dict):
        raise Wrong(where, f'`{where}` is not an object: give {{"question", "context"}}.')
    found = asked.section(where, _Item, given).model_dump()
    return {name: asked.text(f"{where}.{name}", value) for name, value in found.items()}


def rows(found: dict[str, str], where: str, parameters: Parameters, model: Model) -> list[Row]:
    """A row for each window of the context, made as in training; `notes` are its other columns."""
    settings = task(parameters, model)
    question, context = (len(model.tokenizer(found[name], add_special_tokens=False)["input_ids"]) for name in ("question", "context"))  # fmt: skip
    room = settings.max_tokens - question - model.tokenizer.num_special_tokens_to_add(pair=True)
    if room <= settings.stride:
        raise Wrong(
            f"{where}.question",
            f"`{where}.question` has {question} tokens, which leaves {max(room, 0)} of {settings.max_tokens} for windows that share "
            f"{settings.stride}: shorten it, or lower `parameters.doc_stride`.",
        )
    if model.max_prompt_tokens is not None and question + context > model.max_prompt_tokens:
        model.require_fits(where, question + context)
    made = answering.encode(found, model.tokenizer, settings, Labels((), ()))
    return [Row({name: row.columns[name] for name in passes.READ if name in row.columns}, row.columns) for row in made]


def answer(found: dict[str, str], made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """{"answer", "score", "start", "end"}, with `top_k` above 1 a list of them; "" where the context holds no answer.

    A score is the probability among all answers of all windows, and none where that may be said.
    """
    settings = task(parameters, model)
    most = parameters.top_k or 1
    told = [
        {"answer": found["context"][start:end], "score": score, "start": start, "end": end}
        for start, end, score in best(made, outputs, settings, most)
    ]
    return told if most > 1 else told[0]


def best(
    made: Sequence[Row], outputs: Sequence[Any], settings: AnsweringTask, most: int
) -> list[tuple[int, int, float]]:
    """The likeliest answers (start, end, probability), the best one first, each part of the context once; (0, 0) is none.

    None comes first where its score, the least of all windows, is above the best answer's by more than the threshold
    (Devlin et al., arXiv:1810.04805, section 4.3).
    """
    import numpy as np

    spans: dict[tuple[int, int], float] = {}
    everything, none = [], np.inf
    for row, (starts, ends) in zip(made, outputs, strict=True):
        begins, behind = np.array(row.notes["begins"]), np.array(row.notes["ends"])
        inside, longest = begins != OUTSIDE, min(settings.max_answer_tokens, len(begins))
        firsts, lasts = np.where(inside, starts.astype(np.float64), -np.inf), np.where(inside, ends.astype(np.float64), -np.inf)  # fmt: skip
        table = np.stack([firsts + np.append(lasts[more:], np.full(more, -np.inf)) for more in range(longest)], 1)
        none = min(none, float(starts[row.notes["none"]]) + float(ends[row.notes["none"]]))
        likely = np.argsort(-table, axis=None, kind="stable")[: most + 1]
        for first, more in zip(*np.unravel_index(likely, table.shape), strict=True):
            if (score := float(table[first, more])) > -np.inf:
                span = int(begins[first]), int(behind[first + more])
                spans[span] = max(score, spans.get(span, -np.inf))
        everything.append(float(np.logaddexp.reduce(table, axis=None)))
    ranked = sorted(spans.items(), key=lambda one: -one[1])
    if settings.null_threshold is not None:
        everything.append(none)
        place = 0 if not ranked or none - ranked[0][1] > settings.null_threshold else len(ranked)
        ranked.insert(place, ((0, 0), none))
    total = float(np.logaddexp.reduce(everything))
    told = [(start, end, float(np.exp(score - total))) for (start, end), score in ranked[:most]]
    return told or [(0, 0, 1.0)]


def task(parameters: Parameters, model: Model) -> AnsweringTask:
    """What the model was tuned with, and of it what the request says otherwise. Raises Wrong."""
    settings = AnsweringTask(**(model.taught or {"name": "answering"}))
    given = {"max_answer_tokens": parameters.max_answer_len, "max_tokens": parameters.max_seq_len, "stride": parameters.doc_stride}  # fmt: skip
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    longest = changes.get("max_tokens", settings.max_tokens)
    if model.limit is not None and longest > model.limit:
        if parameters.max_seq_len is not None:
            raise Wrong("parameters.max_seq_len", f"`parameters.max_seq_len` = {longest} is over the {model.limit} tokens that the model takes.")  # fmt: skip
        changes["max_tokens"] = model.limit
    if parameters.handle_impossible_answer is not None:
        threshold = settings.null_threshold if settings.null_threshold is not None else 0.0
        changes["null_threshold"] = threshold if parameters.handle_impossible_answer else None
    longest = changes.get("max_tokens", longest)
    if "stride" not in changes and settings.stride >= longest:
        changes["stride"] = longest // 3
    try:
        return AnsweringTask(**{**settings.model_dump(), **changes})
    except (ValidationError, InputError):
        raise Wrong(
            "parameters.doc_stride",
            f"`parameters.doc_stride` = {changes.get('stride')} is no less than the {longest} tokens of a window: lower it.",
        ) from None
