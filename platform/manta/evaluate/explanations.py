"""Which words a classifier's label comes from: integrated gradients over its input embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.data.augment import spans
from manta.evaluate.classifier import Classifier
from manta.evaluate.robustness.trial import picked
from manta.schema import EvaluateRecipe
from manta.sections.tasks import ClassificationTask
from manta.storage import Folder
from manta.tasks import classification
from manta.tasks.labels import filler

if TYPE_CHECKING:
    import torch

TOLERANCE = 0.01  # of max(1, |F(x) - F(baseline)|), by which the attributions may miss it
FIRST, MOST = 16, 1024  # points on the way from the baseline; doubled until the sum is right
AT_ONCE = 32  # of them
FIELDS = ("text", "text_pair")
FILE = "explanations.jsonl"

Logit = Callable[["torch.Tensor"], "torch.Tensor"]  # embeddings (points, seq, hidden) -> (points,)


class Integrated(NamedTuple):
    """Attributions of places, float64 (seq,), and how well they add up: `gap` = their sum - (`value` - `baseline`)."""

    attributions: list[float]
    value: float
    baseline: float
    gap: float
    steps: int

    @property
    def complete(self) -> bool:
        """Whether the gap is within the tolerance."""
        return _within(self.gap, self.value - self.baseline)


def integrated(logit: Logit, shown: torch.Tensor, baseline: torch.Tensor) -> Integrated:
    """Integrated gradients (Sundararajan et al., arXiv:1703.01365) of `logit` at `shown` against `baseline`, both (seq, hidden).

    A place's attribution is the sum over hidden of (x - x0) times the mean of dF/dx on the straight way from x0 to x. The
    mean is taken by Gauss-Legendre quadrature with 16 points, then 32, ... up to 1,024, until the attributions add up to
    F(x) - F(x0) (their completeness) within 0.01, or within 1% of it where it is above 1.
    """
    import torch

    with torch.no_grad():
        ends = logit(torch.stack([shown, baseline]))
    value, lowest = float(ends[0]), float(ends[1])
    steps = FIRST
    while True:
        found = _at(logit, shown, baseline, steps)
        gap = float(found.sum()) - (value - lowest)
        if _within(gap, value - lowest) or steps >= MOST:
            return Integrated(found.tolist(), value, lowest, gap, steps)
        steps *= 2


def _within(gap: float, difference: float) -> bool:
    return abs(gap) <= TOLERANCE * max(1.0, abs(difference))


def _at(logit: Logit, shown: torch.Tensor, baseline: torch.Tensor, steps: int) -> torch.Tensor:
    """The attributions by so many points, float64 (seq,)."""
    import numpy as np
    import torch

    places, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    shares, weights = torch.from_numpy((places + 1) / 2), torch.from_numpy(weights / 2)
    total = torch.zeros(shown.shape, dtype=torch.float64)
    for first in range(0, steps, AT_ONCE):
        part = shares[first : first + AT_ONCE].to(shown.dtype)[:, None, None]
        points = (baseline + part * (shown - baseline)).detach().requires_grad_()
        (slopes,) = torch.autograd.grad(logit(points).sum(), points)  # (points, seq, hidden)
        total += (weights[first : first + AT_ONCE, None, None] * slopes.double()).sum(0)
    return (total * (shown - baseline).double()).sum(1)


# --- of a model ------------------------------------------------------------------------------------------------------


def explained(head: Any, tokenizer: Any, settings: ClassificationTask, example: Mapping[str, Any]) -> dict[str, Any]:
    """The label that a head gives an example, and what each word adds to its logit or takes from it.

    `head` is one of Transformers' for sequence classification in float32. The baseline is the same row with the padding
    token (where there is none, the mask or the end of text) in the place of all pieces but special ones, so that these
    have no part in it. Returns {label: number, value, baseline: logits, gap, steps, complete, words: [{field, start, end,
    text, attribution: logits, share}]}; a share is of the sum of the absolute attributions, with its sign.
    """
    import torch

    rows = tokenizer(
        example["text"],
        example.get("text_pair"),
        truncation="longest_first",
        max_length=settings.max_tokens,
        return_attention_mask=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    names = [name for name in tokenizer.model_input_names if name in rows and name != "input_ids"]
    given = {name: torch.tensor([rows[name]]) for name in names}
    ids = torch.tensor(rows["input_ids"])
    special = torch.tensor(rows["special_tokens_mask"], dtype=torch.bool)
    table = head.get_input_embeddings()
    with torch.no_grad():
        label = int(head(input_ids=ids[None], **given).logits[0].argmax())
        shown = table(ids)
        baseline = torch.where(special[:, None], shown, table(torch.full_like(ids, _nothing(tokenizer))))

    def logit(embedded: torch.Tensor) -> torch.Tensor:
        # All points are of one length: a decoder, which cannot see padding in embeddings, reads its last place.
        more = {name: values.expand(len(embedded), -1) for name, values in given.items()}
        found: torch.Tensor = head(inputs_embeds=embedded, **more).logits[:, label]
        return found

    found = integrated(logit, shown, baseline)
    pieces = list(zip(rows.sequence_ids(), rows["offset_mapping"], found.attributions, strict=True))
    return {
        "label": label,
        "value": found.value,
        "baseline": found.baseline,
        "gap": found.gap,
        "steps": found.steps,
        "complete": found.complete,
        "words": merged(example, pieces),
    }


def merged(
    example: Mapping[str, Any], pieces: Sequence[tuple[int | None, tuple[int, int], float]]
) -> list[dict[str, Any]]:
    """Attributions of pieces, each (which text, its span, attribution), as those of words and of the marks between them.

    A piece counts for the word in which its first character that is no blank stands; one of blanks alone for the next
    word. Pieces of no text, such as [CLS], are left out; words that were cut off have no part.
    """
    found: list[dict[str, Any]] = []
    for side, field in enumerate(FIELDS):
        text = example.get(field)
        if text is None:
            continue
        words = list(_words(text))
        sums = [0.0] * len(words)
        for which, (start, end), attribution in pieces:
            if which == side and words:
                start += len(text[start:end]) - len(text[start:end].lstrip())
                sums[next((place for place, (_, last) in enumerate(words) if start < last), len(words) - 1)] += (
                    attribution
                )
        found += [
            {"field": field, "start": start, "end": end, "text": text[start:end], "attribution": attribution}
            for (start, end), attribution in zip(words, sums, strict=True)
        ]
    whole = sum(abs(word["attribution"]) for word in found)
    return [{**word, "share": word["attribution"] / whole if whole else 0.0} for word in found]


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Where the words stand, and each mark between them."""
    words, gaps = spans.apart(text, "")
    at = 0
    for gap, word in zip(gaps, [*words, ""], strict=True):
        yield from ((place, place + 1) for place, char in enumerate(gap, at) if not char.isspace())
        at += len(gap)
        if word:
            yield at, at + len(word)
        at += len(word)


def _nothing(tokenizer: Any) -> int:
    """The piece that says nothing."""
    if tokenizer.pad_token_id is None and tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    return filler(tokenizer)


# --- of an evaluation ------------------------------------------------------------------------------------------------


def measured(recipe: EvaluateRecipe, model: Path, chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"explanations": one for each of evaluate.explain examples}, nothing where none is asked for.

    Each is {example: its place, text, text_pair, reference, prediction} and what `explained` says. The head is in float32
    whatever evaluate.dtype: slopes in bfloat16 do not add up.
    """
    task, number = recipe.evaluate.task, recipe.evaluate.explain
    if not number or not isinstance(task, ClassificationTask):
        return {}
    opened = Classifier(model, "float32", task)
    found = []
    for place in picked(chosen, number):
        example = chosen[place]
        said = explained(opened.head, opened.tokenizer, task, example)
        prediction = opened.labels.names[said.pop("label")]
        texts = {name: example[name] for name in FIELDS if example.get(name) is not None}
        reference = classification.reference(example, task)
        found.append({"example": place, **texts, "reference": reference, "prediction": prediction, **said})
    return {"explanations": found}


def store(outcome: Mapping[str, Any], folder: Folder) -> None:
    """Write explanations.jsonl, one a line, if there are any."""
    if found := outcome.get("explanations"):
        folder.write_text(FILE, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found))
