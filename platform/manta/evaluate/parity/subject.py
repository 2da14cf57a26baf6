"""What a model directory is to parity: which objective trained its class, how many tokens it takes, whether vLLM serves it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from manta.errors import InputError
from manta.models import classes, formulas
from manta.storage import Folder
from manta.tasks import labels

# How the names of classes end -> the objective that trains them; what has no such ending goes by the kind of model.
HEADS = {
    "ForSequenceClassification": "sequence_labels",
    "ForTokenClassification": "token_labels",
    "ForQuestionAnswering": "spans",
    "ForPreTraining": "nsp",
}
PLAIN = {"decoder": "clm", "encoder": "mlm", "encoder_decoder": "denoising"}
ENDINGS = ("ForCausalLM", "ForMaskedLM", "ForConditionalGeneration", "LMHeadModel")
LABELLING = ("sequence_labels", "token_labels", "spans")


@dataclass(frozen=True)
class Subject:
    """A local Hugging Face directory."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "config.json").read_text(encoding="utf-8")))

    @cached_property
    def objective(self) -> str:
        """The objective whose way of calling the model is the trainer's. Raises InputError for other classes."""
        name = (self.config.get("architectures") or ["no class"])[0]
        if found := next((objective for ending, objective in HEADS.items() if name.endswith(ending)), None):
            return found
        if not name.endswith(ENDINGS):
            raise InputError(
                f"evaluate.parity = True: {self.folder} is of the class {name}, whose heads the trainer does not train: set "
                "evaluate.parity=false"
            )
        return PLAIN[classes.kind(self.config)]

    @property
    def labels(self) -> bool:
        """Whether a head judges texts, instead of predicting tokens."""
        return self.objective in LABELLING

    @property
    def several(self) -> bool:
        return self.config.get("problem_type") == "multi_label_classification"

    @property
    def positions(self) -> int | None:
        return formulas.max_positions(self.config)

    @property
    def dtype(self) -> str:
        """Of the weights as they are stored."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @property
    def compressed(self) -> bool:
        return "quantization_config" in self.config

    @property
    def served(self) -> bool:
        """Whether vLLM can serve it: decoders that write text, of the types that are not our own."""
        return self.objective == "clm" and self.config["model_type"] != "lstm"

    def cut(self, ids: list[int]) -> list[int]:
        """What the model takes of a row."""
        return ids[: self.positions] if self.positions else ids

    def tokenizer(self) -> Any:
        """As training loads it; without its length, so that nothing is told to be too long."""
        if self.labels:
            return labels.tokenizer(self.folder)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    def stops(self) -> list[int]:
        """The tokens that end an answer when it is generated, of generation_config.json or else config.json."""
        place = Folder(self.folder)
        settings = (
            json.loads(place.read_text("generation_config.json")) if place.exists("generation_config.json") else {}
        )
        found = settings.get("eos_token_id", self.config.get("eos_token_id"))
        return [int(stop) for stop in (found if isinstance(found, list) else [found]) if stop is not None]
