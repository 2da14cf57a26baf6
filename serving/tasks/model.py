"""A model that answers tasks, and its tokenizer: opened once, asked in rows of token ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serving.tasks import packed
from serving.tasks.asked import Wrong

ENDLESS = 10**9  # tokens
UNBOUNDED = ("t5", "mt5", "umt5")  # relative positions: n_positions is what they were taught with, no limit
BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text")


class Row(NamedTuple):
    """What a model reads at once: columns of ints, (seq,) each, and what the answer needs to know of them."""

    columns: dict[str, list[int]]
    notes: Any = None
    manner: tuple[Any, ...] = ()  # rows of different manners are not computed together

    @property
    def length(self) -> int:
        return len(self.columns["input_ids"])


class Model:
    """One loaded model. `config` is its config.json; `taught` the task section of the recipe that tuned it, if one did."""

    def __init__(
        self,
        folder: Path,
        dtype: str = "float32",
        taught: Mapping[str, Any] | None = None,
        max_model_len: int | None = None,
        max_prompt_tokens: int | None = None,
        device: str = "cpu",
    ):
        from manta.models.load import model_config, opened
        from manta.tasks import labels

        self.folder, self.taught = folder, taught
        self.config = model_config(str(folder))
        self.tokenizer = labels.tokenizer(folder)
        self.pad_id = labels.filler(self.tokenizer)
        stored = str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")
        self.network = opened(folder, stored if dtype == "auto" else dtype).to(device)
        if getattr(self.network.config, "pad_token_id", None) is None:
            self.network.config.pad_token_id = self.pad_id  # classifiers on decoders find a row's last token by it
        self.device = device
        if device == "cpu" and not self.config.get("is_encoder_decoder"):
            packed.pack(self.network)
        limits = [limit for limit in (max_model_len, positions(self.config), _of_tokenizer(self.tokenizer)) if limit]
        self.limit = min(limits, default=None)  # tokens of one row
        self.tokenizer.model_max_length = self.limit or ENDLESS
        self.max_prompt_tokens = max_prompt_tokens
        self.labels = [name for _, name in sorted(self.network.config.id2label.items())]

    def require_fits(self, where: str, tokens: int, remedy: str = "shorten it") -> None:
        """Raise Wrong where an input has more tokens than the model takes, or than the endpoint lets through."""
        for limit, whose in ((self.max_prompt_tokens, "the endpoint lets through"), (self.limit, "the model takes")):
            if limit is not None and tokens > limit:
                raise Wrong(where, f"`{where}` has {tokens} tokens, over the {limit} that {whose}: {remedy}.")


def positions(config: Mapping[str, Any]) -> int | None:
    """The longest row that a model of `config` reads, None where nothing limits it."""
    if config.get("model_type") in UNBOUNDED:
        return None
    found = config.get("max_position_embeddings") or config.get("n_positions")
    if found is not None and config.get("model_type") in BEHIND_PADDING:
        found -= (config.get("pad_token_id") or 0) + 1  # positions begin behind that of the padding token
    return None if found is None else int(found)


def _of_tokenizer(tokenizer: Any) -> int | None:
    """A tokenizer's own longest text; a very large number stands for none."""
    found = int(tokenizer.model_max_length)
    return found if 0 < found < 10**6 else None
