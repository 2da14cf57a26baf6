"""Samples while training: the likeliest text by hand and by Transformers' own, draws by seed, nothing else disturbed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manta.errors import InputError
from manta.sections.optimisation import Samples
from manta.train import samples
from tests.train.under_deepspeed import model

torch.set_num_threads(1)
WORDS = ["<pad>", "</s>", "[MASK]", "<extra_id_0>", "<extra_id_1>", *(f"w{number}" for number in range(59))]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, additional_special_tokens=["<extra_id_0>", "<extra_id_1>"], **special
    )


class Successor(torch.nn.Module):
    """Says that after word n comes word n + 1, and after w9 the end."""

    def __init__(self, positions: int = 100, start: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.config = SimpleNamespace(max_position_embeddings=positions, decoder_start_token_id=start)

    def forward(self, input_ids: Any, decoder_input_ids: Any = None, use_cache: bool = True) -> Any:
        assert not self.training and not torch.is_grad_enabled()
        ids = input_ids if decoder_input_ids is None else decoder_input_ids
        follows = torch.where(ids == WORDS.index("w9"), 1, ids + 1)
        return SimpleNamespace(logits=torch.nn.functional.one_hot(follows, len(WORDS)).float() * 9.0)


def texts(module: Any, tokenizer: Any, objective: str, prompts: list[str], step: int = 0, **keys: Any) -> list[str]:
    lines = samples.take(module, tokenizer, objective, Samples(prompts=prompts, **keys), step)
    assert [line["prompt"] for line in lines] == prompts
    return [line["text"] for line in lines]


def test_continuations_end_at_the_end_token_or_the_longest(tokenizer: Any) -> None:
    assert texts(Successor(), tokenizer, "clm", ["w3 w5", "w20"], max_tokens=6) == [
        "w6 w7 w8 w9", "w21 w22 w23 w24 w25 w26",
    ]  # fmt: skip
    assert texts(Successor(positions=5), tokenizer, "clm", ["w1 w2 w20"]) == ["w21 w22"]


def test_an_end_token_that_the_tokenizer_adds_is_taken_off(tokenizer: Any) -> None:
    assert texts(Successor(), tokenizer, "clm", ["w8 </s>"]) == ["w9"]


def test_continuations_are_transformers_own(tokenizer: Any) -> None:
    module = model().eval()
    ids = torch.tensor([tokenizer("w3 w7 w1")["input_ids"]])
    theirs = module.generate(ids, do_sample=False, max_new_tokens=9, eos_token_id=1, pad_token_id=0)
    expected = tokenizer.decode(theirs[0, 3:], skip_special_tokens=True)
    assert texts(module, tokenizer, "clm", ["w3 w7 w1"], max_tokens=9) == [expected]


def test_masks_are_filled_where_they_stand(tokenizer: Any) -> None:
    class Place(Successor):
        def forward(self, input_ids: Any) -> Any:
            there = torch.arange(input_ids.shape[1]) + WORDS.index("w10")
            return SimpleNamespace(logits=torch.nn.functional.one_hot(there, len(WORDS)).float()[None])

    assert texts(Place(), tokenizer, "mlm", ["w1 [MASK] w2 [MASK]"]) == ["w1 w11 w2 w13"]


def test_spans_are_decoded_with_their_sentinels(tokenizer: Any) -> None:
    """The decoder begins with the token before <extra_id_1> and counts on: <extra_id_1> w0 w1 ..."""
    module = Successor(start=WORDS.index("<extra_id_0>"))
    assert texts(module, tokenizer, "denoising", ["w1 <extra_id_0> w2"], max_tokens=4) == ["<extra_id_1> w0 w1 w2"]
    assert texts(module, tokenizer, "denoising", ["w1 <extra_id_0> w2"])[0].endswith("w8 w9")


def test_draws_follow_from_seed_and_step_alone(tokenizer: Any) -> None:
    module, keys = model(), {"temperature": 1.0, "max_tokens": 12}
    first = texts(module, tokenizer, "clm", ["w3", "w3"], step=5, **keys)
    torch.manual_seed(99)
    assert texts(module, tokenizer, "clm", ["w3", "w3"], step=5, **keys) == first
    assert first[0] != first[1], "each prompt has its own draws"
    assert texts(module, tokenizer, "clm", ["w3", "w3"], step=6, **keys) != first
    assert texts(module, tokenizer, "clm", ["w3", "w3"], step=5, seed=1, **keys) != first


def test_a_low_temperature_is_greedy_and_chances_are_those_of_the_model(tokenizer: Any) -> None:
    module = model().eval()
    greedy = texts(module, tokenizer, "clm", ["w3"], max_tokens=5)
    assert texts(module, tokenizer, "clm", ["w3"], max_tokens=5, temperature=1e-6) == greedy
    # Logits 0 and ln 3 at temperature 1: a quarter and three quarters.
    job = samples._Job(None, None, Samples(prompts=["x"], temperature=1.0), torch.Generator().manual_seed(0))
    drawn = sum(job.choose(torch.tensor([0.0, 1.0986123])) for _ in range(2000))
    assert abs(drawn - 1500) < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_training_is_left_as_it_was(tokenizer: Any) -> None:
    module = model().train()
    before = torch.get_rng_state()
    texts(module, tokenizer, "clm", ["w3"], temperature=1.0, max_tokens=3)
    assert module.training and torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_what_cannot_be_shown_is_refused(tokenizer: Any) -> None:
    samples.check("clm", 2)
    with pytest.raises(InputError, match=r"resources\.zero_stage = 3 .* set resources\.zero_stage=2, or samples=null"):
        samples.check("clm", 3)
    with pytest.raises(
        InputError, match=r"objective\.name = 'nsp' has nothing to show, only those of clm, distillation, mlm"
    ):
        samples.check("nsp", 0)
    for objective, gap in (("mlm", r"\[MASK\]"), ("denoising", r"<extra_id_0> or \[MASK\]")):
        with pytest.raises(InputError, match=rf"samples\.prompts\.1 = 'w2' leaves nothing to fill: put {gap} into it"):
            samples.check_prompts(Samples(prompts=["w1 [MASK]", "w2"]), objective, tokenizer)
    with pytest.raises(InputError, match=r"samples\.prompts\.0 = '' has no tokens"):
        samples.check_prompts(Samples(prompts=[""]), "clm", tokenizer)
    samples.check_prompts(Samples(prompts=["w1"]), "clm", tokenizer)
