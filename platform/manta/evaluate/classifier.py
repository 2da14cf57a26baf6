"""A classifier in this process: its head is asked for logits, examples of like length at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.sections.tasks import ClassificationTask
from manta.tasks import classification, labels
from manta.tasks.encoding import rows

if TYPE_CHECKING:
    import numpy as np

AT_ONCE = 32  # examples of like length, computed together


class Classifier:
    """A Hugging Face directory with a head for sequence classification, opened in `dtype` ("float32" or "bfloat16")."""

    def __init__(self, model: Path, dtype: str, settings: ClassificationTask):
        import torch
        import transformers

        found = transformers.AutoModelForSequenceClassification
        self.head = found.from_pretrained(model, dtype=getattr(torch, dtype), local_files_only=True).eval()
        self.tokenizer = labels.tokenizer(model)
        self.settings = settings
        self.labels = labels.of_config(json.loads((model / "config.json").read_text(encoding="utf-8")))

    def log_probabilities(self, examples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The logarithm of each label's probability where one label holds, float64 (examples, labels)."""
        import numpy as np

        logits = self.logits(examples).astype(np.float64)
        apart = logits - logits.max(1, keepdims=True)
        found: np.ndarray = apart - np.log(np.exp(apart).sum(1, keepdims=True))
        return found

    def logits(self, examples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """What the head gives for each example, float32 (examples, labels); labels that examples have are not read."""
        import numpy as np
        import torch

        bare = [{name: example[name] for name in ("text", "text_pair") if name in example} for example in examples]
        encoded = [classification.encode(each, self.tokenizer, self.settings, self.labels) for each in bare]
        padded = {"input_ids": labels.filler(self.tokenizer), **classification.PADDED}
        order = sorted(range(len(encoded)), key=lambda place: len(encoded[place].columns["input_ids"]))
        found = np.zeros((len(encoded), len(self.labels.names)), dtype=np.float32)
        for first in range(0, len(order), AT_ONCE):
            places = order[first : first + AT_ONCE]
            part = [encoded[place] for place in places]
            columns = rows.stacked(part, max(len(row.columns["input_ids"]) for row in part), padded)
            shown = {name: torch.from_numpy(values).long() for name, values in columns.items() if name != "labels"}
            with torch.inference_mode():
                found[places] = self.head(**shown).logits.float().numpy()
        return found
