"""What tasks that label share: the labels of a run's examples, rows of columns, the tokenizer as the model wants it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from manta.errors import InputError
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

Example = Mapping[str, Any]
Columns = Mapping[str, "np.ndarray"]
FILE = "labels.json"  # beside the rows
SHOWN = 5  # examples named in one message
CHARS = 60  # of each of them


class Unusable(InputError):
    """What is wrong with an example, seen when it is made into tokens; the text follows "line 7"."""


class Row(NamedTuple):
    """One example as int columns, lists or single numbers, and whether it was cut."""

    columns: dict[str, Any]
    truncated: bool
    words: tuple[int, ...] = ()  # tagging: of each label that is not -100, the number of its word
    num_words: int = 0  # tagging: of the example, with those that have no label


@dataclass(frozen=True)
class Labels:
    """The labels of the training examples, sorted: a label's number is its place. `counts` is how often each holds."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    problem: str | None = None  # Transformers' problem_type, for classification

    def number(self, name: str) -> int:
        return self.names.index(name)

    def config(self) -> dict[str, Any]:
        """What config.json says of them, as Transformers' pipelines read it."""
        found: dict[str, Any] = {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
        }
        return found | ({"problem_type": self.problem} if self.problem else {})

    def balanced(self) -> list[float]:
        """A weight for each label: examples / (labels x examples of this label). Over the examples their mean is 1."""
        return [sum(self.counts) / (len(self.names) * count) for count in self.counts]


def collect(train: Iterable[Example], named: Callable[[Example], Sequence[str]], problem: str | None = None) -> Labels:
    """The labels that the training examples name."""
    counts = Counter(name for example in train for name in named(example))
    names = tuple(sorted(counts))
    return Labels(names, tuple(counts[name] for name in names), problem)


def refuse_unknown(labels: Labels, others: Iterable[Example], named: Callable[[Example], Sequence[str]]) -> None:
    """Raise InputError if validation examples name labels that no training example has."""
    known, lacking = set(labels.names), dict[str, list[str]]()
    for example in others:
        for name in dict.fromkeys(named(example)):
            if name not in known:
                lacking.setdefault(name, []).append(shown(example))
    if not lacking:
        return
    lines = [f"{name!r}: {text}" for name, texts in sorted(lacking.items()) for text in texts]
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    raise InputError(
        f"data.examples: {len(lacking)} labels stand in validation examples alone, so they cannot be learnt: add training examples "
        "of them, raise data.train_rows, or delete these:\n  " + "\n  ".join(lines[:SHOWN]) + more
    )


def shown(example: Example) -> str:
    """The beginning of an example's text."""
    text = example["text"] if "text" in example else " ".join(example["tokens"])
    return text if len(text) <= CHARS else f"{text[: CHARS - 3]}..."


def refuse_unlearnt(labels: Labels, occurs: Sequence[int], remedy: str) -> None:
    """Raise InputError if a label stands in no row that is trained on. `occurs` is how often each does."""
    if lost := [name for name, count in zip(labels.names, occurs, strict=True) if not count]:
        raise InputError(
            f"data.examples: no training row has the label{'s' * (len(lost) > 1)} {', '.join(map(repr, lost))}, which the examples "
            f"name: {remedy}"
        )


def save(labels: Labels, folder: Folder) -> None:
    folder.write_text(FILE, json.dumps(asdict(labels), indent=2, ensure_ascii=False) + "\n")


def load(folder: Folder) -> Labels:
    raw = json.loads(folder.read_text(FILE))
    return Labels(tuple(raw["names"]), tuple(raw["counts"]), raw["problem"])


ENDS = Labels(("start", "end"), (1, 1))  # what a head for answers tells apart, in its order


def head_of(labels: Labels, config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json is to say of the head that a model of `config` gets; one for answers that it has stays its own."""
    if labels == ENDS and any(name.endswith("ForQuestionAnswering") for name in config.get("architectures") or ()):
        return {name: config[name] for name in ("id2label", "label2id") if name in config}
    return labels.config()


def of_config(config: Mapping[str, Any]) -> Labels:
    """The labels of a model that was trained for a task, from its config.json; how often they held is not known."""
    found = sorted(config.get("id2label", {}).items(), key=lambda item: int(item[0]))
    return Labels(tuple(name for _, name in found), (0,) * len(found), config.get("problem_type"))


def tokenizer(model: Path, more: Sequence[str] = ()) -> Any:
    """The tokenizer of a local Hugging Face directory; it gives token_type_ids if the model tells them apart.

    Tokens of `more` that it lacks are added, as special ones.
    """
    from transformers import AddedToken, AutoTokenizer

    found = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if more:
        found.add_tokens([AddedToken(token, special=True, normalized=False) for token in more], special_tokens=True)
    found.model_input_names = input_names(model)
    return found


def input_names(model: Path) -> list[str]:
    """What a model reads of what a tokenizer can give. Whether it does is said by its configuration alone."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    types = ["token_type_ids"] if config.get("type_vocab_size", 1) > 1 else []
    return ["input_ids", *types, "attention_mask"]


def store_input_names(model: Path) -> None:
    """Let Transformers' pipelines give a model what it was trained on: tokenizer_config.json gets model_input_names."""
    file = model / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    settings["model_input_names"] = input_names(model)
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def filler(found: Any) -> int:
    """The id that fills up rows: the tokenizer's own, or the end of text. Raises InputError if it has neither."""
    for token in (found.pad_token_id, found.eos_token_id, found.sep_token_id):
        if token is not None:
            return int(token)
    raise InputError(
        f"model.source: the tokenizer of {found.name_or_path} has no padding token and no end of text to fill up rows with: "
        "add a pad_token to its tokenizer_config.json"
    )
