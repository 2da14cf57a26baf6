"""Integrated gradients against what is known exactly: linear models, equal functions, completeness, other people's code where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from manta.evaluate import explanations
from manta.evaluate.classifier import Classifier
from manta.evaluate.explanations import FIRST, MOST, TOLERANCE, integrated, merged
from manta.sections.tasks import ClassificationTask
from tests.evaluate import planted
from tests.tasks import labelled

TASK = ClassificationTask(name="classification", max_tokens=32)


@pytest.fixture
def ends() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)


# --- known functions -------------------------------------------------------------------------------------------------


def test_a_linear_bag_of_embeddings_has_exact_attributions(ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    shown, baseline = ends
    weights = torch.linspace(-1, 1, 8)
    found = integrated(lambda x: (x @ weights).sum(1) + 3.0, shown, baseline)
    assert found.attributions == pytest.approx(((shown - baseline) @ weights).tolist(), abs=1e-5)
    assert found.steps == FIRST and found.complete
    assert found.value - found.baseline == pytest.approx(sum(found.attributions), abs=1e-4)


def test_a_quadratic_function_by_its_integral(ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Of the sum of x^2 a place has x^2 - x0^2; of a product of two places each gets its half of what both add."""
    shown, baseline = ends
    found = integrated(lambda x: (x**2).sum((1, 2)), shown, baseline)
    assert found.attributions == pytest.approx((shown**2 - baseline**2).sum(1).tolist(), abs=1e-4)
    both = torch.tensor([[2.0], [3.0]])
    product = integrated(lambda x: x[:, 0, 0] * x[:, 1, 0], both, torch.zeros(2, 1))
    assert product.attributions == pytest.approx([3.0, 3.0], abs=1e-5)


def test_functions_that_are_equal_everywhere_are_explained_alike(ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Implementation invariance: what is inside does not matter."""
    weights = torch.linspace(-1, 1, 8)
    one = integrated(lambda x: torch.tanh((x @ weights).sum(1)), *ends)

    def other(x: torch.Tensor) -> torch.Tensor:
        total = torch.einsum("psh,h->p", x, weights)
        return (torch.exp(total) - torch.exp(-total)) / (torch.exp(total) + torch.exp(-total))

    assert integrated(other, *ends).attributions == pytest.approx(one.attributions, abs=1e-4)


def test_a_place_that_is_not_read_has_no_part_and_a_kink_takes_more_points(
    ends: tuple[torch.Tensor, torch.Tensor],
) -> None:
    found = integrated(lambda x: 10 * torch.relu(x[:, 0].sum(1) - 0.3), torch.ones(5, 8), -torch.ones(5, 8))
    assert found.attributions[1:] == [0.0] * 4
    # 77 in all; a step in the slope is found as closely as the points lie.
    assert found.value - found.baseline == pytest.approx(77.0)
    assert abs(found.gap) <= TOLERANCE * 77 and found.complete


def test_what_never_adds_up_is_said() -> None:
    """A jump has no slope: the sum stays 0 however many points there are."""
    found = integrated(
        lambda x: (x.sum((1, 2)) > 0.5).float() + 0.0 * x.sum((1, 2)), torch.ones(1, 1), torch.zeros(1, 1)
    )
    assert found.steps == MOST and not found.complete and found.gap == pytest.approx(-1.0)


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Classifier]:
    import transformers

    folder = tmp_path_factory.mktemp("models")
    llama = labelled.llama(folder / "llama")
    torch.manual_seed(0)
    from_decoder = transformers.AutoModelForSequenceClassification.from_pretrained(
        llama, pad_token_id=0, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    )
    from_decoder.save_pretrained(llama)
    found = {"bert": planted.taught(folder / "bert"), "llama": llama}
    return {name: Classifier(place, "float32", TASK) for name, place in found.items()}


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_attributions_of_a_models_words_add_up_to_its_logit(name: str, models: dict[str, Classifier]) -> None:
    opened = models[name]
    example = {"text": "a vote, really: the match was long"}
    found = explanations.explained(opened.head, opened.tokenizer, TASK, example)
    logits = opened.logits([example])[0]
    assert found["label"] == int(logits.argmax()) and found["value"] == pytest.approx(logits.max(), abs=1e-4)
    assert found["complete"] and [word["text"] for word in found["words"]] == ["a", "vote", ",", "really", ":", "the", "match", "was", "long"]  # fmt: skip
    total = sum(word["attribution"] for word in found["words"])
    assert total == pytest.approx(found["value"] - found["baseline"] + found["gap"], abs=1e-4)
    assert abs(found["gap"]) <= TOLERANCE * max(1.0, abs(found["value"] - found["baseline"]))
    assert sum(abs(word["share"]) for word in found["words"]) == pytest.approx(1.0)


def test_the_baseline_is_the_row_with_padding_in_the_place_of_its_words(models: dict[str, Classifier]) -> None:
    opened = models["bert"]
    found = explanations.explained(opened.head, opened.tokenizer, TASK, {"text": "a vote"})
    tokenizer = opened.tokenizer
    pads = [tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id]
    rows = {"input_ids": torch.tensor([pads]), "token_type_ids": torch.zeros(1, 4, dtype=torch.long)}
    with torch.no_grad():
        empty = opened.head(**rows, attention_mask=torch.ones(1, 4)).logits[0]
    assert found["baseline"] == pytest.approx(float(empty[found["label"]]), abs=1e-5)


def test_attributions_are_those_of_a_plain_sum_over_many_points(models: dict[str, Classifier]) -> None:
    """The midpoint rule with 400 points, one after the other, by Transformers' own forward pass."""
    opened = models["bert"]
    text = "the vote was long"
    found = explanations.explained(opened.head, opened.tokenizer, TASK, {"text": text})
    rows = opened.tokenizer(text, return_tensors="pt")
    table = opened.head.get_input_embeddings().weight.detach()
    shown = table[rows["input_ids"][0]]
    start = shown.clone()
    start[1:-1] = table[opened.tokenizer.pad_token_id]
    total, points = torch.zeros_like(shown), 400
    for number in range(points):
        point = (start + (number + 0.5) / points * (shown - start)).requires_grad_()
        logit = opened.head(inputs_embeds=point[None], attention_mask=rows["attention_mask"], token_type_ids=rows["token_type_ids"]).logits[0, found["label"]]  # fmt: skip
        (slope,) = torch.autograd.grad(logit, point)
        total += slope / points
    wanted = ((shown - start) * total).sum(1)[1:-1]
    assert [word["attribution"] for word in found["words"]] == pytest.approx(wanted.tolist(), abs=TOLERANCE * 10)


def test_most_of_a_label_comes_from_the_planted_word(models: dict[str, Classifier]) -> None:
    opened = models["bert"]
    for example in planted.examples(6, first=100):
        found = explanations.explained(opened.head, opened.tokenizer, TASK, example)
        first = max(found["words"], key=lambda word: word["attribution"])
        assert first["text"] in planted.TRIGGERS and first["share"] > 0.3, found["words"]
        assert opened.labels.names[found["label"]] == example["label"]


# --- words -----------------------------------------------------------------------------------------------------------


def test_pieces_are_merged_into_words() -> None:
    example = {"text": "un used, 电影", "text_pair": "so"}
    pieces: list[Any] = [
        (None, (0, 0), 9.0),  # [CLS]
        (0, (0, 2), 1.0),
        (0, (2, 5), 0.5),  # " us": a piece may begin with the blank before it
        (0, (5, 7), 0.25),
        (0, (7, 8), -1.0),
        (0, (8, 9), 0.125),  # a blank alone: of the next word
        (0, (9, 10), 2.0),
        (0, (10, 11), 2.0),
        (1, (0, 2), -3.125),
    ]
    found = merged(example, pieces)
    said = {(word["field"], word["text"]): word["attribution"] for word in found}
    assert said["text", "un"] == 1.0 and said["text", "used"] == 0.75 and said["text", ","] == -1.0
    assert sum(value for (field, text), value in said.items() if text in ("电", "影", "电影")) == 4.125
    assert said["text_pair", "so"] == -3.125
    assert [word["share"] for word in found if word["text"] == ","] == [pytest.approx(-0.1)]
    for word in found:
        assert example[word["field"]][word["start"] : word["end"]] == word["text"]


def test_words_of_a_text_that_was_cut_have_no_part(models: dict[str, Classifier]) -> None:
    opened = models["bert"]
    short = ClassificationTask(name="classification", max_tokens=5)
    found = explanations.explained(opened.head, opened.tokenizer, short, {"text": "the vote was long again and again"})
    values = [word["attribution"] for word in found["words"]]
    assert all(value != 0 for value in values[:3]) and values[3:] == [0.0] * 4


def test_a_classifier_gives_its_labels_in_the_examples_order(models: dict[str, Classifier]) -> None:
    some = planted.examples(40, first=50)
    opened = models["bert"]
    found = opened.log_probabilities(some)
    assert np.exp(found).sum(1) == pytest.approx(np.ones(40))
    assert [opened.labels.names[place] for place in found.argmax(1)] == [each["label"] for each in some]
    alone = opened.log_probabilities(some[7:8])
    assert found[7] == pytest.approx(alone[0], abs=1e-4)
