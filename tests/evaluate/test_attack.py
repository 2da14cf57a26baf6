"""The attack on planted classifiers: it replaces exactly the words that decide, within its budget, and spares the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from manta.errors import InputError
from manta.evaluate.robustness import stand_ins
from manta.evaluate.robustness.attack import Attacked, Change, attack, without

WEIGHTS = {"superb": 4.0, "fine": 1.0, "dull": -3.0, "plain": -1.0, "weak": -0.5}
OTHERS = {
    "superb": ("fine", "dull"),
    "fine": ("weak", "plain"),
    "film": ("picture", "movie"),
    "really": ("truly",),
}


class Bag:
    """A linear classifier over words: label 1 where their weights add up to more than a bias."""

    def __init__(self, bias: float = 0.0):
        self.bias, self.seen = bias, list[str]()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.seen.extend(texts)
        logits = np.array(
            [sum(WEIGHTS.get(word.strip(","), 0.0) for word in text.split()) - self.bias for text in texts]
        )
        right = 1 / (1 + np.exp(-logits))
        return np.stack([1 - right, right], axis=1)


def attacked(text: str, ask: Bag, budget: float = 0.2, label: int = 1) -> Attacked:
    found = attack(text, label, ask, lambda words, place: OTHERS.get(words[place], ()), budget)
    assert found.num_asked == len(ask.seen)
    return found


def test_exactly_the_word_that_decides_is_replaced() -> None:
    found = attacked("a superb film, really", Bag())
    assert found.flipped and found.changes == [Change(1, "superb", "dull")]
    assert found.text == "a dull film, really" and found.num_words == 4
    # The text, each word left out, then both stand-ins of the first in order: 1 + 4 + 2.
    assert found.num_asked == 7


def test_words_are_left_out_with_one_of_the_blanks_around_them() -> None:
    assert without(["a", "b", "c"], ["", " ", " ", ""], 1) == "a c"
    assert without(["a", "b"], ["", " ", ""], 1) == "a"
    assert without(["a", "b"], ["", ", ", "."], 0) == ", b."
    assert without(["a", "b"], ["", " ", "."], 1) == "a ."


def test_the_budget_bounds_how_many_words_are_replaced() -> None:
    # 4 + 1 with a bias of -2: both words are needed.
    hard = "a superb fine film with nothing else to say"
    assert not attacked(hard, Bag(-3.9), budget=0.2).flipped, "0.2 of 9 words are 1"
    found = attacked(hard, Bag(-3.9), budget=0.3)
    assert found.flipped and {change.word for change in found.changes} == {"superb", "fine"}
    unbroken = attacked(hard, Bag(-50.0), budget=1.0)
    assert not unbroken.flipped and unbroken.text == hard and unbroken.changes == []


def test_replacements_that_turn_out_needless_are_taken_back() -> None:
    """Without `fine` the label's probability is lowest, so it comes first, but `superb` alone is enough."""

    def ask(texts: Sequence[str]) -> np.ndarray:
        found = []
        for text in texts:
            held = set(text.split())
            right = 0.9
            if "fine" not in held:
                right = 0.6
            elif "superb" not in held:
                right = 0.7
            if "dull" in held:
                right = 0.2
            found.append([1 - right, right])
        return np.array(found)

    found = attack("a superb fine film", 1, ask, lambda words, place: OTHERS.get(words[place], ()), 1.0)
    assert found.flipped and found.changes == [Change(1, "superb", "dull")] and found.text == "a dull fine film"


def test_what_does_not_lower_the_probability_is_not_done() -> None:
    found = attack("film", 1, Bag(-1.0), lambda words, place: ("picture",), 1.0)
    assert not found.flipped and found.changes == [] and found.num_asked == 2
    assert attack("...", 1, Bag(-1.0), lambda words, place: ("x",), 1.0).num_words == 0


# --- stand-ins -------------------------------------------------------------------------------------------------------


def test_synonyms_in_the_dictionarys_order() -> None:
    find = stand_ins.of_dictionary({"film": ("picture", "movie", "opera"), "owl": ("bird", "animal")}, 2)
    assert find(["a", "film"], 1) == ("picture", "movie")
    assert find(["an", "owl"], 1) == ("animal",) and find(["old", "owl"], 1) == ("bird", "animal")


def test_neighbours_of_the_embedding_table(tmp_path: Path) -> None:
    import torch
    import transformers

    from manta.tasks import labels
    from tests.tasks import labelled

    folder = labelled.bert(tmp_path / "m", "BertForSequenceClassification")
    tokenizer = labels.tokenizer(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    names, rows = stand_ins.whole_words(tokenizer)
    assert {"good", "lovely", "film", "paris"} <= set(names) and "the" not in names, "no word of grammar"
    assert [tokenizer.convert_ids_to_tokens(row) for row in rows] == names
    table = model.get_input_embeddings().weight.data
    place = dict(zip(names, rows, strict=True))
    with torch.no_grad():
        table.zero_()
        table[:, 0] = 1.0  # as good as orthogonal to what follows
        for name, angle in (("good", 0.0), ("fine", 0.1), ("bad", 0.2), ("dull", 0.3)):
            table[place[name]] = torch.zeros(32)
            table[place[name], 1], table[place[name], 2] = np.cos(angle), np.sin(angle)
    find = stand_ins.of_embeddings(model, tokenizer, 3)
    assert find(["good"], 0) == ("fine", "bad", "dull")
    assert find(["a", "Good"], 1) == ("Fine", "Bad", "Dull") and find(["BAD"], 0)[0] in ("FINE", "DULL")
    assert find(["the"], 0) == () and find(["a"], 0) == () and find(["42"], 0) == ()
    assert "good" not in find(["GOOD"], 0)


def test_a_vocabulary_of_bytes_has_no_neighbours(tmp_path: Path) -> None:
    import transformers

    from manta.tasks import labels
    from tests.tasks import labelled

    folder = labelled.llama(tmp_path / "m")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(InputError, match=r"attack\.words=synonyms"):
        stand_ins.of_embeddings(model, labels.tokenizer(folder), 3)
