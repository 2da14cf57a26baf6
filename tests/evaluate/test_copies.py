"""An evaluation's work over copies of a model: what goes in comes out once, in order, also when a copy dies."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.artifact import Resolved
from manta.errors import InputError, StageFailed
from manta.evaluate import copies, engines, labelling
from manta.evaluate.copies import Copies
from tests.evaluate.parity_models import directory, of_head, recipe_of
from tests.tasks.labelled import SENTIMENTS

NOWHERE = Resolved("model.source", "m", "directory", "/nowhere", "f", "c")


class TestOrder:
    def test_results_come_in_the_order_of_the_work(self) -> None:
        taken = [(2, pickle.dumps("c")), (0, pickle.dumps("a")), (1, pickle.dumps("b"))]
        assert copies.in_order(taken, 3) == ["a", "b", "c"]

    @pytest.mark.parametrize("places", [[0, 1], [0, 1, 1], [0, 1, 2, 2], [0, 1, 3]])
    def test_what_is_lost_or_doubled_is_refused(self, places: list[int]) -> None:
        with pytest.raises(StageFailed, match=f"3 pieces of work went out and {len(places)} came back"):
            copies.in_order([(place, pickle.dumps(place)) for place in places], 3)

    def test_a_result_that_is_an_error_is_raised(self) -> None:
        with pytest.raises(InputError, match="too long"):
            copies.in_order([(0, pickle.dumps(1)), (1, pickle.dumps(InputError("too long")))], 2)


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["resources.workers=2", "resources.cpus=1"], "resources.cpus=2"),
        (["resources.workers=2", "evaluate.task={name: embedding}"], "resources.workers=1"),
    ],
)
def test_workers_that_cannot_help_are_refused(overrides: list[str], remedy: str) -> None:
    with pytest.raises(InputError, match=remedy.replace(".", r"\.")):
        copies.check(recipe_of("/nowhere", *overrides))


class Doubler:
    """Doubles numbers; the first that meets `fatal` kills its process, once."""

    def __init__(self, folder: str, fatal: int | None):
        self.folder, self.fatal = Path(folder), fatal

    def __call__(self, pieces: Sequence[int]) -> list[int]:
        if self.fatal in pieces and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if 13 in pieces:
            raise InputError("thirteen is not wanted")
        return [2 * piece for piece in pieces]


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session")
class TestOnRay:
    def test_each_piece_is_done_once_although_a_copy_dies(self, tmp_path: Path) -> None:
        work = list(range(100, 140))
        found = copies.spread(Copies(NOWHERE, 2, 1), Doubler, (str(tmp_path), 117), work)
        assert found == [2 * piece for piece in work]
        assert (tmp_path / "died").exists()

    def test_an_error_of_ours_comes_back_as_itself(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="thirteen is not wanted"):
            copies.spread(Copies(NOWHERE, 2, 1), Doubler, (str(tmp_path), None), [12, 13])

    def test_copies_of_a_model_find_what_one_finds(self, small_llama: Path) -> None:
        source = Resolved("model.source", str(small_llama), "directory", str(small_llama), "f", "c")
        rows = [[1, 2, 3], [4, 5, 6, 7], [8, 9], [3] * 9, [5, 4, 3, 2, 1]]
        limits = [3, 1, 4, 2, 5]
        alone = engines.load("transformers", small_llama, "float32", 16)
        spread = copies.engine(Copies(source, 2, 1), "transformers", "float32", 16)
        for found, wanted in zip(spread.logs(rows), alone.logs(rows), strict=True):
            assert found == pytest.approx(wanted, abs=1e-5)
        assert spread.generate(rows, limits) == alone.generate(rows, limits)

    def test_copies_of_a_head_judge_as_one_does(self, tmp_path: Path) -> None:
        folder = of_head("BertForSequenceClassification", tmp_path / "head")
        file = tmp_path / "examples.jsonl"
        some = [{**example, "label": "yes"} for example in SENTIMENTS * 2]
        file.write_text("".join(json.dumps(example) + "\n" for example in some))
        inputs = {"data.examples": Resolved("data.examples", "x", "file", str(file), "f", "c")}
        given = ["evaluate.task={name: classification}", "data.examples=./x", "data.validation_fraction=1.0"]
        found = [
            labelling.measure(
                recipe_of(folder, *given, f"resources.workers={workers}"), folder, inputs, print, directory(folder)
            )
            for workers in (1, 2)
        ]
        assert len(found[1]["predictions"]) == len(some)
        assert found[1]["predictions"] == found[0]["predictions"]
        assert found[1]["confidence"] == pytest.approx(np.array(found[0]["confidence"]), abs=1e-6)

    def test_nothing_to_do_starts_nothing(self) -> None:
        assert copies.spread(Copies(NOWHERE, 2, 1), Doubler, ("/nowhere", None), []) == []


@pytest.fixture
def small_llama(tmp_path: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "max_position_embeddings": 32, "initializer_range": 0.5, "eos_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"
