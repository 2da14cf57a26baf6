"""Trimming a model: what stays is said as before, ids change wherever they stand, and evaluation compares like with like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from pydantic import ValidationError

from manta.compress import vocabulary
from manta.errors import InputError
from manta.sections.prune import Vocabulary
from manta.storage import Folder

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

torch = pytest.importorskip("torch")

KEEP = 400


class Trimmed(NamedTuple):
    source: Path
    target: Path
    kept: list[int]
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def trimmed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trimmed:
    target = tmp_path_factory.mktemp("trimmed")
    counts = vocabulary.look(Folder(trained.shards))
    figures = vocabulary.apply(trained.model, target, Vocabulary(keep=KEEP), counts, lambda done, total: None)
    kept = json.loads((target / "vocabulary_map.json").read_text())["kept"]
    return Trimmed(trained.model, target, kept, figures)


def logits(model: Path, rows: Any) -> Any:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return loaded(input_ids=torch.tensor(rows)).logits


def test_what_stays_is_as_likely_as_before(trimmed: Trimmed) -> None:
    new = np.random.default_rng(0).integers(0, len(trimmed.kept), (3, 20))
    old = np.array(trimmed.kept)[new]
    before, after = logits(trimmed.source, old), logits(trimmed.target, new)
    assert after.shape[-1] == len(trimmed.kept) <= KEEP
    assert torch.allclose(after, before[..., trimmed.kept], atol=1e-5)


def test_every_id_is_the_new_one(trimmed: Trimmed) -> None:
    from transformers import AutoTokenizer

    source, target = (AutoTokenizer.from_pretrained(each) for each in (trimmed.source, trimmed.target))
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for name in ("config.json", "generation_config.json"):
            before, after = (json.loads((each / name).read_text()) for each in (trimmed.source, trimmed.target))
            assert trimmed.kept[after[role]] == before[role] == getattr(source, role)
        assert getattr(target, role) == after[role]
    config = json.loads((trimmed.target / "config.json").read_text())
    assert config["vocab_size"] == len(trimmed.kept) == len(target)
    said = [{"role": "user", "content": ""}]
    asked = [each.apply_chat_template(said, add_generation_prompt=True)["input_ids"] for each in (source, target)]
    assert [trimmed.kept[number] for number in asked[1]] == asked[0]
    assert (trimmed.target / "chat_template.jinja").read_bytes() == (
        trimmed.source / "chat_template.jinja"
    ).read_bytes()


def test_the_figures_are_counted(trained: Trained, trimmed: Trimmed) -> None:
    from manta.data.sample import sample_rows

    special = 7
    for split, key in (("train", "vocabulary_coverage"), ("validation", "vocabulary_coverage_unseen")):
        rows = sample_rows(Folder(trained.shards), split, 10**6, seed=0)
        counted = rows[rows >= special]  # the special tokens are the first
        assert trimmed.figures[key] == pytest.approx(np.isin(counted, trimmed.kept).mean())
    assert trimmed.figures["vocab_size"] == len(trimmed.kept)
    assert trimmed.figures["base_vocab_size"] == 512


def test_the_tables_stay_tied(trimmed: Trimmed) -> None:
    from safetensors.torch import load_file

    before, after = (load_file(each / "model.safetensors") for each in (trimmed.source, trimmed.target))
    assert before.keys() == after.keys()
    name = "model.embed_tokens.weight"
    assert torch.equal(after[name], before[name][trimmed.kept])
    assert all(torch.equal(after[other], before[other]) for other in before if other != name)


def test_files_that_would_say_something_else_are_left_out(trained: Trained, tmp_path: Path) -> None:
    """A directory with everything that directories may have: slow tokenizers' files, ids as keys, lists of ids."""
    import shutil

    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(trained.model, source)
    target.mkdir()
    written = json.loads((source / "tokenizer.json").read_text())
    special = written["added_tokens"]
    last = max(written["model"]["vocab"].values())
    (source / "merges.txt").write_text("a b\n")
    (source / "vocab.json").write_text("{}")
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(token["id"]): {"content": token["content"]} for token in special}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": [0, last], "suppress_tokens": [3, last], "temperature": 0.5}
    (source / "generation_config.json").write_text(json.dumps(generation))
    counts = vocabulary.look(Folder(trained.shards))
    vocabulary.apply(source, target, Vocabulary(keep=KEEP), counts, lambda done, total: None)
    kept = json.loads((target / "vocabulary_map.json").read_text())["kept"]
    assert last in kept, "what the settings name stays"
    assert not (target / "merges.txt").exists()
    assert not (target / "vocab.json").exists()
    after = json.loads((target / "generation_config.json").read_text())
    assert [[kept[number] for number in after[key]] for key in ("eos_token_id", "suppress_tokens")] == [
        [0, last],
        [3, last],
    ]
    assert after["temperature"] == 0.5
    decoder = json.loads((target / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {kept[int(number)]: token["content"] for number, token in decoder.items()} == {
        token["id"]: token["content"] for token in special
    }


def test_perplexities_of_both_vocabularies_are_of_the_same_text(trained: Trained, trimmed: Trimmed) -> None:
    """The rows that evaluation reads are spelt anew, and counted by the tokens that they had."""
    from manta import recipe as recipes
    from manta.artifact import Resolved
    from manta.evaluate.measure import _rows
    from manta.schema import EvaluateRecipe

    recipe = recipes.validate(
        {
            "kind": "evaluate",
            "name": "scores",
            "model": {"source": str(trimmed.target), "base": str(trimmed.source)},
            "data": {"shards": str(trained.shards)},
            "evaluate": {"perplexity_rows": 8},
        }
    )
    assert isinstance(recipe, EvaluateRecipe)
    inputs = {"data.shards": Resolved("data.shards", "shards", "prepare", str(trained.shards), "0", "0")}
    said: list[str] = []
    before, tokens = _rows(recipe, trimmed.source, inputs, said.append)
    after, counted = _rows(recipe, trimmed.target, inputs, said.append)
    assert tokens == counted == [len(row) - 1 for row in before]
    assert sum(map(len, after)) > sum(map(len, before))
    assert len(said) == 1
    assert "times as many tokens" in said[0]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"config.json": {"model_type": "bart"}}, "type 'bart' cannot be cut: leave compress.vocabulary out"),
        (
            {"vocabulary_map.json": {"vocab_size": 9, "kept": [1]}},
            "was trimmed already: name the model it was made from",
        ),
        ({"tokenizer.json": None}, "has no tokenizer.json: convert its tokenizer"),
    ],
)
def test_what_cannot_be_trimmed_is_refused(tmp_path: Path, change: dict[str, Any], remedy: str) -> None:
    files = {
        "config.json": {"model_type": "llama"},
        "tokenizer.json": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []},
    }
    for name, content in (files | change).items():
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(InputError, match=remedy):
        vocabulary.check(Vocabulary(), config, Folder(tmp_path))


def test_one_measure_decides_what_stays() -> None:
    with pytest.raises(ValidationError, match="leave one out"):
        Vocabulary(keep=100, coverage=0.9)
    assert (
        vocabulary.describe(Vocabulary()) == "trim the vocabulary to what covers 99.9900% of the training rows' tokens"
    )
    assert "10% of its tokens" in vocabulary.describe(Vocabulary(keep=0.1))
    assert "the 4096 tokens" not in vocabulary.describe(Vocabulary(keep=0.1))
