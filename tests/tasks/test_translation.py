"""Translation: what a decoder is asked and learns, and how answers in any script are scored."""

from __future__ import annotations

from typing import Any

import pytest
from sacrebleu.metrics import BLEU, CHRF

from manta.evaluate import figures
from manta.sections.tasks import TranslationTask
from manta.tasks import TASKS, translation
from manta.tasks.scoring import ngrams

SETTINGS = TranslationTask(name="translation", source_language="English", target_language="German")
SHORT = TranslationTask(
    name="translation", source_language="English", target_language="German", max_input_tokens=3, max_target_tokens=2
)
GERMAN = ["Der Hund schläft im Haus.", "Ein Baum, groß und alt"]
CHINESE = ["我喜欢学习中文。", "他在北京工作，使用Python 3。"]
JAPANESE = ["私は日本語を勉強しています。", "彼は東京で働いています"]


def test_a_decoder_is_asked_through_its_chat_template(tokenizer: Any) -> None:
    found = translation.encode({"input": "A b", "target": "Ok"}, tokenizer, SETTINGS)
    text = "<|user|>\nTranslate from English to German:\n\nA b<|end|>\n<|assistant|>\nOk<|end|>"
    assert tokenizer.decode(found.input_ids) == text and not found.truncated
    assert tokenizer.decode([label for label in found.labels if label != -100]) == "Ok<|end|>"
    asked = translation.question({"input": "A b", "target": "Ok"}, tokenizer, SETTINGS)
    assert asked == [{"role": "user", "content": "Translate from English to German:\n\nA b"}]


def test_long_texts_are_cut_in_training_and_asking_alike(tokenizer: Any) -> None:
    found = translation.encode({"input": "abcdef", "target": "xyz"}, tokenizer, SHORT)
    assert found.truncated and tokenizer.decode(found.input_ids).endswith("\n\nabc<|end|>\n<|assistant|>\nxy")
    assert translation.question({"input": "abcdef"}, tokenizer, SHORT)[0]["content"].endswith("\n\nabc")
    assert translation.max_new_tokens(SHORT) == 3
    assert translation.decode(" eins\nzwei \n") == "eins\nzwei"


def test_t5_was_taught_these_words() -> None:
    assert translation.prefix(SETTINGS) == "translate English to German: "


@pytest.mark.parametrize(
    ("references", "words"),
    [
        (GERMAN, "13a"),
        (CHINESE, "zh"),
        (JAPANESE, "char"),
        (["ฉันรักภาษาไทย"], "char"),
        (["나는 한국어를 공부한다."], "13a"),
        (["Beijing (北京) is the capital of China, and a very large city."], "13a"),
        ([""], "13a"),
    ],
)
def test_the_script_says_what_a_word_is(references: list[str], words: str) -> None:
    assert ngrams.words_of(references) == words
    guess = [text[:-2] for text in references]
    found = translation.score(guess, references)
    assert found["bleu"] == pytest.approx(BLEU(tokenize=words).corpus_score(guess, [references]).score)
    assert found["score"] == pytest.approx(CHRF().corpus_score(guess, [references]).score)


def test_chinese_is_not_one_word_a_sentence() -> None:
    """Of eight characters one is wrong: by blanks nothing would be right."""
    guess, wanted = ["我喜欢学习英文。"], ["我喜欢学习中文。"]
    assert translation.score(guess, wanted)["bleu"] > 50
    assert BLEU(tokenize="13a", effective_order=True).corpus_score(guess, [wanted]).score == 0


def test_figures_are_those_of_the_score() -> None:
    for references in (GERMAN, CHINESE, JAPANESE):
        guess = [text[1:] for text in references]
        found = figures.of_task("translation", [guess, references], references)
        assert tuple(figure.name for figure in found) == translation.FIGURES
        for figure in found:
            assert figure.formula(figure.rows[0].sum(0)[None])[0] == pytest.approx(
                translation.score(guess, references)[figure.name]
            )
            assert figure.formula(figure.rows[1].sum(0)[None])[0] == pytest.approx(100.0)


def test_nothing_translated_scores_nothing() -> None:
    assert TASKS["translation"].score([], []) == {"score": 0.0, "bleu": 0.0}
