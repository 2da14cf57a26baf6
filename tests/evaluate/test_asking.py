"""What encoder-decoders answer: greedily as by hand, in batches as one by one, by beams as Transformers; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import asking
from manta.tasks.scoring import generation
from tests.objectives import tiny
from tests.tasks import paired
from tests.train.in_process import evaluation_of

ASKED = [[5, 6, 7], [9, 8], [10, 11, 12, 13, 14, 15], [6], [7, 9, 11, 13]]


def by_hand(model: Any, ids: list[int], limit: int) -> list[int]:
    """The likeliest token each time, without a cache, a batch or padding."""
    decoded = [model.config.decoder_start_token_id]
    while len(decoded) <= limit:
        logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([decoded]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token == model.config.eos_token_id:
            break
        decoded.append(token)
    return decoded[1:]


@pytest.fixture(params=["t5", "bart"])
def model(request: pytest.FixtureRequest) -> Any:
    found = getattr(tiny, request.param)()
    torch.manual_seed(4)
    for parameter in found.parameters():  # a new model says the same to everything
        parameter.data += 0.3 * torch.randn_like(parameter)
    return found


def test_batches_say_what_each_row_alone_would(model: Any) -> None:
    found = generation.answers(model, ASKED, tiny.PAD, 12)
    assert found == [by_hand(model, ids, 12) for ids in ASKED]
    assert len({tuple(answer) for answer in found}) > 1


def test_the_order_of_rows_is_kept_whatever_goes_together(model: Any) -> None:
    many = [ids for ids in ASKED for _ in range(8)]
    found = generation.answers(model, many, tiny.PAD, 6)
    assert found == [answer for answer in generation.answers(model, ASKED, tiny.PAD, 6) for _ in range(8)]
    assert sorted(place for places in generation.groups(many) for place in places) == list(range(40))
    assert [len(places) for places in generation.groups(many)] == [16, 16, 8]


def test_beams_are_those_of_transformers(model: Any) -> None:
    found = generation.answers(model, ASKED, tiny.PAD, 8, beams=3)
    for ids, answer in zip(ASKED, found, strict=True):
        [whole] = model.generate(torch.tensor([ids]), num_beams=3, do_sample=False, max_new_tokens=8).tolist()
        assert [token for token in whole[1:] if token not in (model.config.eos_token_id, tiny.PAD)] == answer


def test_a_directory_that_wants_to_sample_or_to_say_more_is_asked_all_the_same(model: Any) -> None:
    plain = generation.answers(model, ASKED, tiny.PAD, 6)
    model.generation_config.update(do_sample=True, temperature=5.0, min_length=6, no_repeat_ngram_size=1, num_beams=4)
    assert generation.answers(model, ASKED, tiny.PAD, 6) == plain


def test_an_answer_ends_before_the_end_of_text() -> None:
    assert generation._upto([4, 5, 2, 0, 0], [2]) == [4, 5]
    assert generation._upto([2, 4], [2]) == []
    assert generation._upto([4, 0], [2]) == [4, 0]


def checked(folder: Path, **given: Any) -> None:
    recipe = evaluation_of(**{"task": paired.TASK, **given})
    asking.check(recipe, {"model.source": Resolved("model.source", "m", "directory", str(folder), "", "")})


def test_what_it_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    checked(tmp_path)
    with pytest.raises(InputError, match=r"evaluate.engine = 'vllm'.*of type 't5'.*set evaluate.engine=transformers"):
        checked(tmp_path, engine="vllm")
    with pytest.raises(
        InputError, match=r"evaluate.perplexity_rows = 8.*set data.shards=null evaluate.perplexity_rows=0"
    ):
        checked(tmp_path, perplexity_rows=8)
    with pytest.raises(InputError, match=r"evaluate.task.name = 'chat'.*taught summarisation and translation"):
        checked(tmp_path, task={"name": "chat"})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    checked(tmp_path, engine="vllm")
    with pytest.raises(InputError, match=r"task.beams = 4 is for models with an encoder and a decoder"):
        checked(tmp_path, task={**paired.TASK, "beams": 4})


def test_a_copy_elsewhere_answers_as_the_model_here(tmp_path: Path) -> None:
    """What Ray Data makes in a process of its own, where evaluation is spread."""
    folder = paired.t5(tmp_path / "t5")
    recipe = evaluation_of(paired.TASK)
    source, parts = Resolved("model.source", "m", "directory", str(folder), "", ""), [ASKED[:2], ASKED[2:]]
    found = asking._Copy(recipe, source, 0, 4, 1)(parts)
    assert found == asking._Answers(recipe, folder, 0, 4, 1)(parts)
    assert [len(part) for part in found] == [2, 3]
