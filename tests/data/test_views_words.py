"""What masking knows of a tokenizer's ids, against what the tokenizers themselves say of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from manta.data import tokenizer
from manta.data.views import words
from manta.sections.prepare import Tokenizer
from manta.storage import Folder

STEMS = [
    "paint",
    "garden",
    "speak",
    "travel",
    "reason",
    "wander",
    "listen",
    "measure",
    "gather",
    "wonder",
    "record",
    "borrow",
]
WORDS = [f"{a}{b}{c}" for a in ("", "re", "un", "over", "mis") for b in STEMS for c in ("", "er", "ing", "able", "ed")]
TEXTS = [" ".join(WORDS[i::17]) + "." for i in range(17)]
TEXTS += [f"{s}明天去{o}学习中文。" for s in ("我们", "学生") for o in ("北京", "上海")] * 3
TEXTS += ["naïve café, 2024!\nYes?"] * 3
SIZES = {"bpe": 340, "wordpiece": 264, "unigram": 420}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for kind, size in SIZES.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        extra = [] if kind == "wordpiece" else ["<mask>"]
        settings = Tokenizer.model_validate({"type": kind, "vocab_size": size, "special_tokens": extra})
        tokenizer.make(settings, None, iter(TEXTS), found[kind])
    return found


def known(folder: Path) -> tuple[words.Ids, Backend]:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    return words.read(Folder(folder), backend.get_vocab_size(with_added_tokens=True)), backend


def encoded(backend: Backend, text: str) -> Any:
    return backend.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("kind", SIZES)
def test_words_are_those_between_spaces(folders: dict[str, Path], kind: str) -> None:
    found, backend = known(folders[kind])
    several = 0
    for start in range(13):
        text = " ".join(WORDS[start::13])
        tokens = encoded(backend, text)
        # The word of a token: how many spaces stand before its last letter.
        number = [text[:end].count(" ") for _, end in tokens.offsets]
        begins = [place == 0 or number[place] != number[place - 1] for place in range(len(number))]
        marked = [not found.continues[token] for token in tokens.ids]
        assert marked[1:] == begins[1:]  # a text's first token need not be marked: a row's start begins a word
        several += sum(not begin for begin in begins)
    assert several > 50, "the tokenizer cuts words"


@pytest.mark.parametrize("kind", SIZES)
def test_marks_and_unspaced_letters_stand_alone(folders: dict[str, Path], kind: str) -> None:
    found, backend = known(folders[kind])
    for text in ("librarian.", "librarian,", "明天去"):
        tokens = encoded(backend, text)
        first = next(place for place, (start, _) in enumerate(tokens.offsets) if start == len(text) - 1)
        assert not found.continues[tokens.ids[first]], tokens.tokens


def test_letters_of_several_bytes_are_not_cut_from_their_word(folders: dict[str, Path]) -> None:
    """Byte-level: é within a word is two tokens, both within it; the rest of a Chinese letter continues its start."""
    found, backend = known(folders["bpe"])
    letters = {byte: letter for letter, byte in tokenizer_bytes().items()}
    single = {
        byte: backend.token_to_id(letters[byte]) for byte in (0xC3, 0xA9, 0xE4, 0xBD, ord(" "), ord("7"), ord("!"))
    }
    continues = {byte: bool(found.continues[number]) for byte, number in single.items()}
    assert continues == {
        0xC3: True,
        0xA9: True,
        0xE4: False,
        0xBD: True,
        ord(" "): False,
        ord("7"): True,
        ord("!"): False,
    }


def tokenizer_bytes() -> dict[str, int]:
    from manta.data.tokenizers.engines import byte_letters

    return byte_letters()


def test_bytes_of_a_unigram_vocabulary(folders: dict[str, Path]) -> None:
    found, backend = known(folders["unigram"])
    byte = {name: found.continues[backend.token_to_id(f"<0x{name}>")] for name in ("C3", "A9", "E4", "0A", "41")}
    assert byte == {"C3": True, "A9": True, "E4": False, "0A": False, "41": True}
    assert not found.special[backend.token_to_id("<0x41>")], "it stands for text"


@pytest.mark.parametrize("kind", SIZES)
def test_special_ids_are_those_of_the_tokenizer(folders: dict[str, Path], kind: str) -> None:
    from transformers import AutoTokenizer

    found, backend = known(folders[kind])
    theirs = AutoTokenizer.from_pretrained(folders[kind])
    assert set(theirs.all_special_ids) == set(np.flatnonzero(found.special).tolist())
    assert sorted([*found.ordinary, *np.flatnonzero(found.special)]) == list(range(backend.get_vocab_size()))
    assert found.ordinary.dtype == np.int32
    assert found.mask_id == backend.token_to_id("[MASK]" if kind == "wordpiece" else "<mask>")


def test_ids_without_a_token_are_no_text(folders: dict[str, Path]) -> None:
    size = known(folders["bpe"])[1].get_vocab_size()
    found = words.read(Folder(folders["bpe"]), size + 7)
    assert found.special[size:].all() and found.ordinary.max() < size


def test_the_mask_token_that_the_configuration_names(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["wordpiece"]
    (tmp_path / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
    assert words.read(Folder(tmp_path), 264).mask_id == 4, "by its usual name"
    for named in ("[UNK]", {"content": "[UNK]", "lstrip": True}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": named}))
        assert words.read(Folder(tmp_path), 264).mask_id == 1


def test_sentence_ends(folders: dict[str, Path]) -> None:
    found, backend = known(folders["bpe"])
    for text, wanted in {"!": True, "?": True, "\n": True, ",": False, "a": False, ".": True}.items():
        (number,) = encoded(backend, text).ids
        assert found.ends[number] == wanted, text
    found, backend = known(folders["wordpiece"])
    assert found.ends[encoded(backend, "中文。").ids[-1]]
