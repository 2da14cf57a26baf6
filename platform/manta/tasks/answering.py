"""Answering: a question, a context, and the part of it that answers; scored by the F1 of words, as SQuAD is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from manta.errors import InputError
from manta.sections.tasks import AnsweringTask
from manta.storage import Folder
from manta.tasks.encoding.conversation import IGNORED
from manta.tasks.encoding.windows import OUTSIDE, Best, Found, best, best_span, grouped, place
from manta.tasks.fields import Field
from manta.tasks.labels import Columns, Example, Labels, Row, Unusable
from manta.tasks.scoring import answers

FIELDS = (Field("question", "text"), Field("context", "text"), Field("answers", "answers"))
PADDED = {"attention_mask": 0, "token_type_ids": 0, "begins": OUTSIDE, "ends": OUTSIDE}
SCORES = ("score", "exact_match")  # of `score`
FILE = "answers.json"  # beside the rows: the contexts and right answers of the validation examples

Answer = str  # a part of the context, or nothing
Wanted = list[str]  # the right answers, of which one is enough; none: the context holds no answer


def problem(settings: AnsweringTask) -> None:
    """Transformers tells no problems of question answering apart."""
    del settings


def named(example: Example, settings: AnsweringTask) -> list[str]:
    """Answers are no labels."""
    del example, settings
    return []


def reference(example: Example, settings: AnsweringTask) -> Wanted:
    """What is to be predicted, in any of its forms."""
    del settings
    return [answer["text"] for answer in example["answers"]]


def encode(example: Example, tokenizer: Any, settings: AnsweringTask, labels: Labels) -> list[Row]:
    """The rows of an example: windows of settings.max_tokens over its context, which share settings.stride tokens of it.

    Columns of each: those of the tokenizer, (seq,); `begins` and `ends`, (seq,), each token's characters of the context,
    -1 for the question and special tokens; `start_positions` and `end_positions`, the first and the last token of the
    first answer that lies in the window, or of [CLS], which says that it has none (Devlin et al., arXiv:1810.04805,
    section 4.3); `none`, the place of [CLS]; `window`, the number of the window. Where no window holds an answer that
    there is, the rows are not scored (-100). An example without answers, as in serving, has none.

    Raises Unusable for a question that leaves no room, InputError for a tokenizer that does not do pairs of texts.
    """
    del labels
    _refuse_other(tokenizer)
    _refuse_long(example["question"], tokenizer, settings)
    found = tokenizer(
        example["question"], example["context"], truncation="only_second", max_length=settings.max_tokens,
        stride=settings.stride, return_overflowing_tokens=True, return_offsets_mapping=True, return_attention_mask=True,
    )  # fmt: skip
    made, spans = [], []
    for number in range(len(found["input_ids"])):
        columns: dict[str, Any] = {
            name: list(found[name][number]) for name in tokenizer.model_input_names if name in found
        }
        inside = [
            (begin, end) if part == 1 and end > begin else (OUTSIDE, OUTSIDE)
            for part, (begin, end) in zip(found.sequence_ids(number), found["offset_mapping"][number], strict=True)
        ]
        columns["begins"], columns["ends"] = [begin for begin, _ in inside], [end for _, end in inside]
        columns["none"], columns["window"] = columns["input_ids"].index(tokenizer.cls_token_id), number
        spans.append(_where(columns, example.get("answers") or []))
        made.append(columns)
    lost = bool(example.get("answers")) and not any(spans)
    for columns, span in zip(made, spans, strict=True):
        ends = (IGNORED, IGNORED) if lost else span or (columns["none"], columns["none"])
        columns["start_positions"], columns["end_positions"] = ends
    return [Row(columns, lost) for columns in made]


def decode(
    logits: Any, columns: Columns, labels: Labels, settings: AnsweringTask, rows: Sequence[Row] = ()
) -> list[Found]:
    """What each row says by itself: see `joined`. `logits` is float32 (rows, 2, seq), of starts and ends."""
    del labels, rows
    found = []
    for number, (starts, ends) in enumerate(logits):
        begins, behind, cls = columns["begins"][number], columns["ends"][number], int(columns["none"][number])
        first, last, score, weight = best_span(starts, ends, begins != OUTSIDE, settings.max_answer_tokens)
        none = float(starts[cls]) + float(ends[cls])
        place_of = int(begins[first]), int(behind[last])
        found.append(Found(int(columns["window"][number]), *place_of, score, none, weight))
    return found


def references(columns: Columns, labels: Labels, settings: AnsweringTask) -> list[None]:
    """Columns do not hold the right answers, `kept` has them."""
    del labels, settings
    return [None] * len(columns["window"])


def joined(
    found: Sequence[Found], contexts: Iterable[str], settings: AnsweringTask
) -> tuple[list[Answer], list[list[float]]]:
    """The answer to each question and its probability, from what its windows said, which stand side by side.

    Answers are cut out of the contexts, of which there may be more. "" where there is none: see `windows.best`.
    """
    told, sure = [], []
    for windows, context in zip(grouped(found), contexts, strict=False):
        chosen: Best = best(windows, settings.null_threshold)
        told.append(context[slice(*chosen.span)] if chosen.span else answers.NO_ANSWER)
        sure.append([round(chosen.probability, 6)])
    return told, sure


def keep(examples: Sequence[Example], settings: AnsweringTask, folder: Folder) -> None:
    """Store what `kept` gives: columns hold numbers alone."""
    found = [{"context": example["context"], "answers": reference(example, settings)} for example in examples]
    folder.write_text(FILE, json.dumps(found, ensure_ascii=False))


def kept(folder: Folder) -> tuple[list[str], list[Wanted]]:
    """The contexts and the right answers of the validation examples."""
    found = json.loads(folder.read_text(FILE))
    return [example["context"] for example in found], [example["answers"] for example in found]


def shares(predictions: Sequence[Answer], wanted: Sequence[Wanted]) -> list[tuple[float, float]]:
    """Of each example (numerator, denominator) of the score, which is the quotient of their sums."""
    return [(answers.f1(guess, truth), 1.0) for guess, truth in zip(predictions, wanted, strict=True)]


def score(predictions: Sequence[Answer], wanted: Sequence[Wanted]) -> dict[str, float]:
    """Per cent. "score" is the mean F1 of words of `answers.f1`, of scripts without blanks of characters; "exact_match"
    the share that is right but for case, punctuation and articles; where some have no answer also `answers.figures`'.
    """
    found = answers.figures(predictions, wanted)
    return {"score": found.pop("f1"), **found}


def _where(columns: dict[str, Any], given: Sequence[dict[str, Any]]) -> tuple[int, int] | None:
    """The tokens of the first answer that lies in a window, None if there is none."""
    for answer in given:
        text, start = answer["text"], answer["start"]
        begin = start + len(text) - len(text.lstrip())
        if span := place(columns["begins"], columns["ends"], begin, start + len(text.rstrip())):
            return span
    return None


def _refuse_other(tokenizer: Any) -> None:
    alone, pair = tokenizer.num_special_tokens_to_add(), tokenizer.num_special_tokens_to_add(pair=True)
    if tokenizer.cls_token_id is None or pair <= alone:
        raise InputError(
            f"model.source: the tokenizer of {tokenizer.name_or_path} sets no special token before a text, or none between "
            "question and context: choose a model.source whose tokenizer does, such as a BERT"
        )


def _refuse_long(question: str, tokenizer: Any, settings: AnsweringTask) -> None:
    """Raise Unusable for a question beside which windows cannot move on."""
    count = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    room = settings.max_tokens - count - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= settings.stride:
        raise Unusable(
            f"has a question of {count} tokens, beside which task.max_tokens = {settings.max_tokens} leaves {max(room, 0)} of the "
            f"context, and windows that share task.stride = {settings.stride} of them do not move on: raise task.max_tokens, or lower "
            "task.stride"
        )
