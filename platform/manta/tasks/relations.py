"""Relations: a text, two entities in it, and what the one is to the other; scored by F1 of the relations that hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.errors import InputError
from manta.sections.tasks import RelationsTask
from manta.tasks import classification
from manta.tasks.encoding.markers import MARKERS, around, marked
from manta.tasks.fields import Field, shown
from manta.tasks.labels import Columns, Example, Labels, Row, Unusable
from manta.tasks.scoring.scores import mean

FIELDS = (Field("text", "text"), Field("head", "span"), Field("tail", "span"), Field("label", "label"))
PADDED = classification.PADDED
SCORES = ("score", "accuracy", "macro_f1")  # of `score`
TOKENS = MARKERS  # that the tokenizer gets, and the model's embeddings a row each
NONE = "(none)"  # the answer that task.no_relation stands for, whatever it is called

Answer = str  # the relation, or NONE


def problem(settings: RelationsTask) -> str:
    """Transformers' problem_type."""
    del settings
    return "single_label_classification"


def named(example: Example, settings: RelationsTask) -> list[str]:
    """The label of an example."""
    del settings
    return [example["label"]]


def reference(example: Example, settings: RelationsTask) -> Answer:
    """What is to be predicted."""
    return _answer(example["label"], settings)


def encode(example: Example, tokenizer: Any, settings: RelationsTask, labels: Labels) -> Row:
    """Columns of one example: those of the tokenizer, each (seq,), and `labels`, the number of its relation.

    Both entities are marked, and the head of Transformers' sequence classification reads the whole: of the variants of
    Baldini Soares et al. (arXiv:1906.03158, figure 3) this is "entity markers - [CLS]". A text longer than
    settings.max_tokens is cut on both sides of the entities. An example without label, as in serving, has the first.
    Raises Unusable where both entities do not fit, or the text itself has a marker; InputError for a tokenizer that
    does not know the markers.
    """
    text, numbers = example["text"], _numbers(tokenizer)
    if literal := [marker for marker in MARKERS if marker in text]:
        raise Unusable(f"has {literal[0]!r} in its text, which marks the entities: take it out")
    given = tokenizer(
        marked(text, example["head"], example["tail"]), return_attention_mask=True, return_special_tokens_mask=True
    )
    columns: dict[str, Any] = {name: list(given[name]) for name in tokenizer.model_input_names if name in given}
    truncated = len(columns["input_ids"]) > settings.max_tokens
    if truncated:
        columns = _cut(columns, list(given["special_tokens_mask"]), numbers, example, settings)
    known = example.get("label")
    columns["labels"] = labels.number(known) if known is not None else 0
    return Row(columns, truncated)


def decode(
    logits: Any, columns: Columns, labels: Labels, settings: RelationsTask, rows: Sequence[Row] = ()
) -> list[Answer]:
    """The likeliest relation of each row; `logits` is float32 (rows, labels)."""
    del columns, rows
    return [_answer(labels.names[place], settings) for place in logits.argmax(1)]


def references(columns: Columns, labels: Labels, settings: RelationsTask) -> list[Answer]:
    """What `columns["labels"]`, int (rows,), says in the user's terms."""
    return [_answer(labels.names[number], settings) for number in columns["labels"]]


def confidence(logits: Any, columns: Columns, settings: RelationsTask) -> list[list[float]]:
    """The probability of each label, (rows, labels) as lists."""
    del columns, settings
    return classification.probabilities(logits)


def shares(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> list[tuple[float, float]]:
    """Of each example (2 right, predicted + true) of the relations that hold: the score is the quotient of their sums."""
    pairs = zip(predictions, wanted, strict=True)
    return [(2.0 * (guess == truth != NONE), float((guess != NONE) + (truth != NONE))) for guess, truth in pairs]


def score(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> dict[str, float]:
    """Per cent. "score" is the micro F1 of the relations that hold, as TACRED's scorer computes it: P = right /
    predicted, R = right / true, where no relation (task.no_relation) is neither predicted nor true. Without such a label
    it is the accuracy. Where nothing is predicted and nothing true it is 100.

    "macro_f1" is the mean over relations, without that label, of their F1, as of SemEval-2010 task 8; "accuracy" the
    share of examples that are right, that label included.
    """
    pairs = list(zip(predictions, wanted, strict=True))
    right, total = map(sum, zip(*shares(predictions, wanted), strict=True))
    names = sorted({name for pair in pairs for name in pair} - {NONE})
    each = [
        2 * sum(guess == truth == name for guess, truth in pairs) / sum((guess == name) + (truth == name) for guess, truth in pairs)
        for name in names
    ]  # fmt: skip
    return {
        "score": 100 * right / total if total else 100.0,
        "accuracy": 100 * mean(float(guess == truth) for guess, truth in pairs),
        "macro_f1": 100 * mean(each) if each else 100.0,
    }


def refuse_unknown_none(settings: RelationsTask, labels: Labels) -> None:
    """Raise InputError if task.no_relation names a label that is none."""
    if settings.no_relation is not None and settings.no_relation not in labels.names:
        raise InputError(
            f"task.no_relation = {settings.no_relation!r} is none of the labels {', '.join(map(repr, labels.names))}: name one of "
            "them, or set task.no_relation=null if some relation always holds"
        )


def _answer(label: str, settings: RelationsTask) -> Answer:
    return NONE if label == settings.no_relation else label


def _numbers(tokenizer: Any) -> set[int]:
    """The ids of the markers."""
    found = tokenizer.convert_tokens_to_ids(list(MARKERS))
    if None in found or tokenizer.unk_token_id in found:
        raise InputError(
            f"model.source: the tokenizer of {tokenizer.name_or_path} does not know the markers {' '.join(MARKERS)}: fine-tune the "
            "model for task.name=relations first, and name that run's artifact"
        )
    return set(found)


def _cut(
    columns: dict[str, list[int]], special: list[int], numbers: set[int], example: Example, settings: RelationsTask
) -> dict[str, list[int]]:
    """The columns with max_tokens places: the special tokens at both ends, the entities, and what stands around them."""
    ids = columns["input_ids"]
    front = special.index(0)
    back = special[::-1].index(0)
    places = [place - front for place, token in enumerate(ids) if token in numbers]
    room = settings.max_tokens - front - back
    kept = around(places[0], places[-1] + 1, len(ids) - front - back, room)
    if kept is None:
        head, tail = (example["text"][slice(*example[name])] for name in ("head", "tail"))
        raise Unusable(
            f"has the entities {shown(head)} and {shown(tail)} {places[-1] + 1 - places[0]} tokens from end to end, and of "
            f"task.max_tokens = {settings.max_tokens} there are {room}: raise task.max_tokens, or leave it out"
        )
    start, end = (front + place for place in kept)
    return {
        name: values[:front] + values[start:end] + values[len(ids) - back :] if back else values[:front] + values[start:end]
        for name, values in columns.items()
    }  # fmt: skip
