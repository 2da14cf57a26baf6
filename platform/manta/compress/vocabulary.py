"""A vocabulary for a domain: tokens that its text does not use leave the embeddings, the output head and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.compress.pruning import anatomy
from manta.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from manta.data.tokenizers.trim import Spelling
    from manta.sections.prune import Vocabulary
    from manta.storage import Folder

SETTING = "compress.vocabulary"
COVERAGE = 0.9999  # where the settings say nothing
SPLITS = ("train", "validation")
# What a chat template writes itself, besides what stands in it.
ROLES = ("system", "user", "assistant", "tool")
LISTS = ("suppress_tokens", "begin_suppress_tokens")  # of ids, in generation_config.json
# Files of slow tokenizers, which say what tokenizer.json said before.
STALE = ("vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken")

Report = Callable[[int, int], None]  # called with (steps done, steps)


def describe(settings: Vocabulary) -> str:
    """What is about to be done, in a few words."""
    if settings.keep is None:
        return f"trim the vocabulary to what covers {_coverage(settings):.4%} of the training rows' tokens"
    kept = f"{settings.keep:.0%} of its tokens" if isinstance(settings.keep, float) else f"{settings.keep} tokens"
    return f"trim the vocabulary to the {kept} that the training rows use most"


def check(settings: Vocabulary, config: Mapping[str, Any], folder: Folder) -> None:
    """Raise InputError for a type of model or tokenizer that cannot be trimmed, and for one that was trimmed already."""
    from manta.data import respell
    from manta.data.tokenizers.trim import Spelling

    del settings
    anatomy.of(config, SETTING)
    if not folder.exists("tokenizer.json"):
        raise InputError(
            f"{SETTING}: {folder.url} has no tokenizer.json: convert its tokenizer with "
            "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if respell.read(folder) is not None:
        raise InputError(f"{SETTING}: {folder.url} was trimmed already: name the model it was made from")
    Spelling(folder.read_text("tokenizer.json"))


def look(shards: Folder) -> np.ndarray:
    """How often each token stands in the training rows, all of them, and in the validation rows: (2, vocabulary) int64."""
    import numpy as np

    from manta.data.sample import token_counts

    return np.stack([token_counts(shards, split) for split in SPLITS])


def apply(source: Path, target: Path, settings: Vocabulary, rows: np.ndarray | None, report: Report) -> dict[str, Any]:
    """Trim the model in the Hugging Face directory `source` into the existing, empty folder `target`.

    `rows` is what `look` gives. Weights are selected and keep their dtype. Ids change everywhere they stand, and
    `vocabulary_map.json` says how. Returns the sizes of the vocabulary before and after, and the shares of the training
    and of the validation rows' tokens that stay, special tokens aside.
    """
    import torch

    from manta.compress.pruning import cutting
    from manta.data import respell
    from manta.data.tokenizers import trim
    from manta.models.load import model_config
    from manta.storage import Folder

    assert rows is not None
    config = model_config(str(source))
    check(settings, config, Folder(source))
    written = (source / "tokenizer.json").read_text(encoding="utf-8")
    spelling = trim.Spelling(written)
    if len(rows[0]) > spelling.size:
        raise InputError(f"{SETTING}: the shards have {len(rows[0])} tokens and the model's tokenizer {spelling.size}")
    for number in {*_named(source), *_template(source, written)}:
        if number in spelling.words:
            spelling.always |= spelling.requires(number)
    keep = settings.keep if not isinstance(settings.keep, float) else round(settings.keep * len(spelling.ids))
    kept = trim.choose(spelling, rows[0].tolist(), None if keep is not None else _coverage(settings), keep)
    report(0, 1)
    trimmed = trim.trim(written, kept)
    loaded = cutting.load(source, SETTING)
    smaller = cutting.cut(loaded, {anatomy.VOCABULARY: torch.tensor(kept)}, [{} for _ in cutting.blocks(loaded)])
    new = {old: place for place, old in enumerate(kept)}
    _renumber(smaller.model.config.__dict__, new)
    cutting.save(smaller, source, target)
    (target / "tokenizer.json").write_text(trimmed, encoding="utf-8")
    _rewrite(target, new)
    respell.write(target, respell.Trimmed(spelling.size, kept))
    report(1, 1)
    return {
        "vocab_size": len(kept),
        "base_vocab_size": int(config["vocab_size"]),
        "vocabulary_coverage": _share(rows[0], kept, spelling),
        "vocabulary_coverage_unseen": _share(rows[1], kept, spelling),
    }


def _coverage(settings: Vocabulary) -> float:
    return COVERAGE if settings.coverage is None else settings.coverage


def _share(counts: np.ndarray, kept: list[int], spelling: Spelling) -> float | None:
    """The share of the counted tokens that stay; None where nothing was counted."""
    import numpy as np

    counted = counts.copy()
    counted[[number for number in spelling.special if number < len(counted)]] = 0
    stays = np.array([number for number in kept if number < len(counted)])
    return float(counted[stays].sum() / counted.sum()) if counted.sum() else None


def _named(source: Path) -> Iterator[int]:
    """The ids that the model's settings name."""
    for name in ("config.json", "generation_config.json"):
        place = source / name
        content = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
        for key, value in content.items():
            if key.endswith("_token_id") or key in LISTS:
                yield from (number for number in (value if isinstance(value, list) else [value]) if number is not None)


def _template(source: Path, tokenizer_json: str) -> Iterator[int]:
    """The tokens of what the chat template writes around messages: a model has learnt to answer to these very ones."""
    import jinja2
    from tokenizers import Tokenizer

    config = source / "tokenizer_config.json"
    place = source / "chat_template.jinja"
    text = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.exists() else None
    text = place.read_text(encoding="utf-8") if place.exists() else text
    if not isinstance(text, str):
        return
    found = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    constants = (node.value for node in found.find_all(jinja2.nodes.Const) if isinstance(node.value, str))
    backend = Tokenizer.from_str(tokenizer_json)
    for piece in (*(node.data for node in found.find_all(jinja2.nodes.TemplateData)), *constants, *ROLES):
        yield from backend.encode(piece, add_special_tokens=False).ids


def _renumber(settings: dict[str, Any], new: dict[int, int]) -> None:
    """Change the ids that stand in settings, where they stand. Those of tokens that went are left out of lists."""
    for key, value in settings.items():
        if key.endswith("_token_id") and isinstance(value, int):
            settings[key] = new.get(value, value)  # -1 and the like stand for none
        elif (key.endswith("_token_id") or key in LISTS) and isinstance(value, list):
            settings[key] = [new[number] for number in value if number in new]


def _rewrite(target: Path, new: dict[int, int]) -> None:
    """Change the ids in the files beside the weights, which were copied as they are, and take away stale ones."""
    for pattern in STALE:
        for place in target.glob(pattern):
            place.unlink()
    for name in ("generation_config.json", "tokenizer_config.json", "added_tokens.json"):
        place = target / name
        if not place.exists():
            continue
        content = json.loads(place.read_text(encoding="utf-8"))
        if name == "added_tokens.json":
            content = {word: new[number] for word, number in content.items()}
        _renumber(content, new)
        if "added_tokens_decoder" in content:
            content["added_tokens_decoder"] = {
                str(new[int(number)]): token for number, token in content["added_tokens_decoder"].items()
            }
        place.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
