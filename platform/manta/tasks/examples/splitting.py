"""Which examples are trained on and which validate: by the hash of what is asked, within each label where there are any."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from manta.tasks.encoding.conversation import Example


def validating(examples: Sequence[Example], fraction: float) -> list[bool]:
    """Whether each example stands on the validation side; the same question never stands on both.

    Without labels a question's side is whether its hash, as a number in [0, 1), is below `fraction`: more examples
    change nothing for those that were there. With labels the questions of each label are ranked by their hash, and the
    first of them validate: `fraction` of them, at least one and never all where a label has two or more. Of several
    labels the rarest of the file counts, of contradicting ones the first.
    """
    asked = [_hash(question(example)) for example in examples]
    if not examples or not any("label" in example or "labels" in example for example in examples):
        return [int(name[:15], 16) / 16**15 < fraction for name in asked]
    strata: dict[str, set[str]] = {}
    placed: set[str] = set()
    for name, stratum in zip(asked, _strata(examples), strict=True):
        if name not in placed:
            placed.add(name)
            strata.setdefault(stratum, set()).add(name)
    chosen: set[str] = set()
    for names in strata.values():
        chosen.update(sorted(names)[: share(len(names), fraction)])
    return [name in chosen for name in asked]


def share(count: int, fraction: float) -> int:
    """How many of `count` questions of one label validate."""
    if fraction in (0.0, 1.0):
        return int(fraction) * count
    return min(max(round(fraction * count), 1), count - 1)


def question(example: Example) -> Any:
    """What an example asks, which decides its side: its input, its messages up to the first answer, its text or texts,
    its tokens; of a question about a context the context, whose other questions would give it away."""
    if "chosen" in example:
        return example.get("messages", example.get("input"))
    if "messages" in example:
        roles = [message["role"] for message in example["messages"]]
        return example["messages"][: roles.index("assistant")] if "assistant" in roles else example["messages"]
    for name in ("input", "context", "tokens"):
        if name in example:
            return example[name]
    return [example["text"], example["text_pair"]] if "text_pair" in example else example["text"]


def choose(examples: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` examples, in their order. Chosen by hash, so that a larger limit keeps what a smaller one chose."""
    if limit is None or limit >= len(examples):
        return examples
    ranked = sorted(range(len(examples)), key=lambda position: (_hash(examples[position]), position))
    return [examples[position] for position in sorted(ranked[:limit])]


def _strata(examples: Iterable[Example]) -> list[str]:
    """The label by which each example is counted."""
    listed = [[example["label"]] if "label" in example else list(example["labels"]) for example in examples]
    often = Counter(label for labels in listed for label in labels)
    return [min(labels, key=lambda label: (often[label], label), default="") for labels in listed]


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
