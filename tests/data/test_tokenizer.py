"""The trained tokenizer: reproducible, lossless, readable by the ecosystem, and encoded fast with the same ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from manta import package
from manta.data import tokenizer
from manta.errors import InputError
from manta.storage import Folder


def corpus() -> Iterator[str]:
    """Real text, in a form that exercises spaces, digits, punctuation and several scripts."""
    for name in ("textwrap", "argparse", "json.decoder", "decimal"):
        module = __import__(name, fromlist=["x"])
        yield Path(module.__file__ or "").read_text()
    yield "Grüße aus Köln. Ελληνικά κείμενα. Русский текст. 日本語の文章。 😀😀 1234567 3.14159\r\n\t\ttabs\n\n\n" * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train(corpus(), 1000, place)
    return place


@pytest.fixture(scope="module")
def engines(folder: Path) -> dict[str, tokenizer.Encode]:
    return tokenizer.encoders((folder / "tokenizer.json").read_text())


def test_training_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    tokenizer.train(corpus(), 1000, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_vocabulary_has_the_size_that_was_asked_for(folder: Path) -> None:
    assert tokenizer.facts(Folder(folder)) == tokenizer.Facts(vocab_size=1000, eos_id=0, bos_id=0, pad_id=2)


def test_a_small_corpus_gives_a_smaller_vocabulary(tmp_path: Path) -> None:
    tokenizer.train(iter(["abc abc"]), 1000, tmp_path)
    smallest = tokenizer.BYTES + len(tokenizer.SPECIAL)
    assert smallest < tokenizer.facts(Folder(tmp_path)).vocab_size < smallest + 10


text_with_structure = st.one_of(
    st.text(max_size=200),
    st.text(alphabet=" \n\r\t'abceéßλ字😀0123.,-<|>", max_size=200),
    st.lists(
        st.sampled_from(["def ", "return", " the", "  ", "\n\n", "'s", "12345", "<|user|>", "\u00a0", "\u2028"])
    ).map("".join),
)


@settings(max_examples=400, deadline=None)
@given(text=text_with_structure)
def test_the_fast_engine_gives_the_references_ids_and_no_text_is_lost(
    engines: dict[str, tokenizer.Encode], folder: Path, text: str
) -> None:
    ids = list(engines["tokenizers"](text))
    for engine in ("gigatoken", "tiktoken"):
        assert list(engines[engine](text)) == ids, engine
    decode = Tokenizer.from_file(str(folder / "tokenizer.json")).decode
    assert decode(ids, skip_special_tokens=False) == text


def test_the_fast_engine_is_chosen_only_where_it_agrees(engines: dict[str, tokenizer.Encode]) -> None:
    assert list(engines) == ["gigatoken", "tiktoken", "tokenizers"]
    assert tokenizer.choose(engines, ["Some text.", ""]) == "gigatoken"
    wrong = {"tiktoken": lambda text: [*engines["tokenizers"](text), 1], "tokenizers": engines["tokenizers"]}
    assert tokenizer.choose(wrong, ["Some text."]) == "tokenizers"


def test_a_document_cannot_forge_control_tokens(engines: dict[str, tokenizer.Encode]) -> None:
    for encode in engines.values():
        assert min(encode("<|endoftext|><|user|>")) >= len(tokenizer.SPECIAL)


def test_transformers_loads_it_with_its_special_tokens_and_chat_template(folder: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.is_fast
    assert len(loaded) == 1000
    assert (loaded.eos_token, loaded.bos_token, loaded.pad_token, loaded.unk_token) == (
        "<|endoftext|>",
        "<|endoftext|>",
        "<|pad|>",
        "<|unk|>",
    )
    assert loaded.all_special_tokens == list(tokenizer.SPECIAL)
    assert [loaded.convert_tokens_to_ids(token) for token in tokenizer.SPECIAL] == list(range(len(tokenizer.SPECIAL)))
    plain = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Return the value.").ids
    assert loaded("Return the value.")["input_ids"] == plain, "nothing is added around a text"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    shown = loaded.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert shown == "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
    ids = loaded.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert [i for i in ids if i < len(tokenizer.SPECIAL)] == [3, 6, 4, 6, 5]


def _train_other(kind: str) -> Tokenizer:
    """A GPT-2 style tokenizer, which tiktoken can represent, and two that it cannot."""
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.train_from_iterator(
            corpus(), trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "</s>"], show_progress=False)
        )
        return made
    made = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = (
        byte_level
        if kind == "gpt2"
        else pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus(), trainer)
    return made


@pytest.mark.parametrize(
    ("kind", "expected"), [("gpt2", "gigatoken"), ("digits", "tokenizers"), ("wordpiece", "tokenizers")]
)
def test_other_tokenizers_are_copied_and_encoded_by_what_can_represent_them(
    kind: str, expected: str, tmp_path: Path
) -> None:
    source, copied = tmp_path / "source", tmp_path / "copied"
    source.mkdir()
    copied.mkdir()
    _train_other(kind).save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    tokenizer.copy(tokenizer.find(str(source)), copied)
    assert (copied / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert tokenizer.facts(Folder(copied)).eos_id == (1 if kind == "wordpiece" else 0)
    engines = tokenizer.encoders((copied / "tokenizer.json").read_text())
    texts = list(corpus())
    assert tokenizer.choose(engines, texts) == expected
    reference = Tokenizer.from_file(str(source / "tokenizer.json"))
    assert [list(engines[expected](text)) for text in texts] == [
        reference.encode(text, add_special_tokens=False).ids for text in texts
    ]


def test_where_a_tokenizer_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.source.*no tokenizer\.json"):
        tokenizer.find(str(tmp_path))
    for name in (".", "model", "tokenizer"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "tokenizer.json").write_text("{}")
        assert Path(tokenizer.find(str(tmp_path)).url).resolve() == (tmp_path / name).resolve()


def test_a_packages_model_has_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").touch()
    monkeypatch.setattr(package, "convert", {"package:pretend": tmp_path}.__getitem__)
    assert tokenizer.find("package:pretend").url == str(tmp_path)


def test_a_tokenizer_without_an_end_of_text_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="names no eos_token"):
        tokenizer.facts(Folder(tmp_path))
