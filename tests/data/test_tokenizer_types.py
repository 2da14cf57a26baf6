"""Tokenizers of every type: the same files again, loaded alike by the ecosystem, unforgeable; extended and measured."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from manta.data import tokenizer
from manta.errors import InputError
from manta.sections.prepare import Tokenizer
from manta.storage import Folder

SUBJECTS = ["cat", "dog", "painter", "old professor", "librarian", "student", "gardener", "neighbour"]
VERBS = ["watches", "likes", "describes", "remembers", "paints", "follows"]
TEXTS = [
    f"The {s} {v} the {o}, and nobody minds it at all in {1900 + i}.\n"
    for i, v in enumerate(VERBS)
    for s in SUBJECTS
    for o in SUBJECTS
]
TEXTS += [
    f"{s}明天去{o}学习中文，然后在图书馆看书。" for s in ("我们", "学生", "老师") for o in ("北京大学", "上海", "学校")
] * 4
HELD_OUT = ["The librarian paints\ta garden — naïve?\n\n", "老师在上海看书。龘", "Nothing 12345 [x] <y> 😀"]
SIZES = {"bpe": 600, "wordpiece": 400, "unigram": 520}


def settings(**given: Any) -> Tokenizer:
    return Tokenizer.model_validate(given)


def trained(folder: Path, kind: str, **given: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    chosen = settings(type=kind, vocab_size=SIZES[kind], **given)
    assert not list(tokenizer.problems(chosen))
    tokenizer.make(chosen, None, iter(TEXTS), folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: trained(tmp_path_factory.mktemp(kind), kind, special_tokens=["<|tool|>"]) for kind in SIZES}


def backend(folder: Path) -> Backend:
    return Backend.from_file(str(folder / "tokenizer.json"))


def engine(folder: Path) -> tokenizer.Encode:
    return tokenizer.encoders((folder / "tokenizer.json").read_text())["tokenizers"]


def vocabulary(folder: Path) -> dict[str, int]:
    return dict(backend(folder).get_vocab(with_added_tokens=True))


def test_byte_level_bpe_is_what_it_always_was(tmp_path: Path) -> None:
    texts = [
        "the cat sat on the mat, 123456 times — café 北京大学的学生 学习 中文\n\n  def f(x): return x\n",
        "low lower lowest new newer newest wide wider widest 我们明天去北京大学",
    ] * 20
    tokenizer.train(iter(texts), 400, tmp_path)
    starts = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in tmp_path.iterdir()}
    assert starts == {
        "tokenizer.json": "5acc49d55116",
        "tokenizer_config.json": "0340952f8865",
        "chat_template.jinja": "4bffba286bea",
    }


@pytest.mark.parametrize("kind", SIZES)
def test_another_process_with_other_threads_writes_the_same_bytes(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    code = (
        "import json, sys; from pathlib import Path; from manta.data import tokenizer; from manta.sections.prepare import Tokenizer\n"
        "place = Path(sys.argv[1]); texts = json.loads((place / 'texts.json').read_text()); (place / 'out').mkdir()\n"
        "chosen = Tokenizer(type=sys.argv[2], vocab_size=int(sys.argv[3]), special_tokens=['<|tool|>'])\n"
        "tokenizer.make(chosen, None, iter(texts), place / 'out')\n"
    )
    other = os.environ | {"RAYON_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, tmp_path, kind, str(SIZES[kind])], env=other, check=True, timeout=120)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        p.name: p.read_bytes() for p in folders[kind].iterdir()
    }


@pytest.mark.parametrize("kind", SIZES)
def test_transformers_loads_each_type_and_gives_the_same_ids(folders: dict[str, Path], kind: str) -> None:
    from transformers import AutoTokenizer

    loaded, ours = AutoTokenizer.from_pretrained(folders[kind]), engine(folders[kind])
    for text in [*TEXTS[::40], *HELD_OUT]:
        assert loaded(text, add_special_tokens=False)["input_ids"] == list(ours(text))
    known = tokenizer.facts(Folder(folders[kind]))
    assert known.vocab_size == len(loaded) <= SIZES[kind]
    assert (known.eos_id, known.bos_id, known.pad_id) == (
        loaded.eos_token_id,
        loaded.bos_token_id,
        loaded.pad_token_id,
    )
    assert "<|tool|>" in loaded.all_special_tokens
    assert set(tokenizer.BUILT_IN[kind]) <= set(loaded.all_special_tokens)


@pytest.mark.parametrize("kind", SIZES)
def test_no_document_can_forge_a_special_token(folders: dict[str, Path], kind: str) -> None:
    special = {token["id"] for token in json.loads((folders[kind] / "tokenizer.json").read_text())["added_tokens"]}
    unknown = {vocabulary(folders[kind])["[UNK]"]} if kind == "wordpiece" else set()
    text = " ".join(["<|tool|><|endoftext|></s>[SEP][MASK]<pad><unk>", *tokenizer.BUILT_IN[kind]])
    assert special
    assert not (special - unknown) & set(engine(folders[kind])(text))
    if kind == "unigram":
        ids = engine(folders[kind])("<0x41>")
        assert backend(folders[kind]).decode(ids) == "<0x41>", "nor a byte by its name"


def test_wordpiece_is_berts(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folders["wordpiece"])
    assert (loaded.cls_token, loaded.sep_token, loaded.mask_token, loaded.eos_token, loaded.bos_token) == (
        "[CLS]", "[SEP]", "[MASK]", "[SEP]", "[CLS]",
    )  # fmt: skip
    framed = loaded.convert_ids_to_tokens(loaded("The painter", "学习")["input_ids"])
    assert (framed[0], framed[-1], framed.count("[SEP]")) == ("[CLS]", "[SEP]", 2)
    assert framed[-3:-1] == ["学", "习"], "each Chinese character is a word"
    tokens = backend(folders["wordpiece"]).encode("likewatches", add_special_tokens=False).tokens
    assert any(token.startswith("##") for token in tokens)
    assert "".join(token.removeprefix("##") for token in tokens) == "likewatches"
    lower = trained(tmp_path, "wordpiece", lowercase=True)
    same = [engine(lower)(text) for text in ("THE Painter", "the painter", "thé páinter")]
    assert same[0] == same[1] == same[2]
    assert engine(folders["wordpiece"])("The") != engine(folders["wordpiece"])("the")


def test_wordpiece_leaves_rare_letters_out_when_there_is_no_room(tmp_path: Path) -> None:
    letters = "".join(chr(0x4E00 + number) * (600 - number) for number in range(600))
    tokenizer.train(iter([letters]), 300, tmp_path, settings(type="wordpiece"))
    words = vocabulary(tmp_path)
    assert len(words) <= 300
    kept = {chr(0x4E00 + number) for number in range(600)} & set(words)
    assert kept == {chr(0x4E00 + number) for number in range(len(kept))}, "the commonest"
    assert 150 < len(kept) < 200


def test_unigram_loses_nothing_and_falls_back_to_bytes(folders: dict[str, Path]) -> None:
    ours = backend(folders["unigram"])
    for text in [*TEXTS[::40], *HELD_OUT]:
        assert ours.decode(engine(folders["unigram"])(text), skip_special_tokens=False) == text
    assert ours.encode("龘").tokens[-3:] == ["<0xE9>", "<0xBE>", "<0x98>"]
    assert ours.encode("a student").tokens[-1] == "▁student"
    words = vocabulary(folders["unigram"])
    assert (words["<pad>"], words["</s>"], words["<unk>"]) == (0, 1, 2)


def test_t5s_sentinels_on_request(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(trained(tmp_path, "unigram", sentinels=3))
    ids = loaded("The <extra_id_0> dog <extra_id_2>")["input_ids"]
    special = loaded.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_2>", "</s>"])
    assert [i for i in ids if i in special] == special, "</s> closes the text"
    assert not set(special) & set(engine(tmp_path)("The <extra_id_0> dog</s>"))


def test_a_vocabulary_that_is_too_small_for_unigram_is_refused(tmp_path: Path) -> None:
    many = ["".join(chr(0x4E00 + number) for number in range(start, start + 50)) for start in range(0, 3000, 50)]
    with pytest.raises(InputError, match=r"tokenizer\.vocab_size.*SentencePiece says"):
        tokenizer.train(iter(many), 400, tmp_path, settings(type="unigram"))


def test_a_chat_template_is_text_or_a_file(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (tmp_path / "chat.jinja").write_text(template)
    for number, setting in enumerate((template, str(tmp_path / "chat.jinja"))):
        made = trained(tmp_path / str(number), "wordpiece", chat_template=setting)
        assert (made / "chat_template.jinja").read_text() == template
    assert not (trained(tmp_path / "none", "wordpiece") / "chat_template.jinja").exists()
    with pytest.raises(InputError, match=r"tokenizer\.chat_template.*neither a file"):
        trained(tmp_path / "no", "bpe", chat_template="nowhere.jinja")


# --- extending -------------------------------------------------------------------------------------------------------

DOMAIN = ["The photosynthesis of chlorophyll follows. Photosynthesis!\n", "光合作用由叶绿素进行，光合作用。"] * 5


def token_of(kind: str, folder: Path, text: str, word: str) -> list[int]:
    """The ids of the tokens in which a word stands within a text."""
    encoded = backend(folder).encode(text, add_special_tokens=False)
    start = text.index(word)
    return [i for i, (s, e) in zip(encoded.ids, encoded.offsets, strict=True) if s < start + len(word) and e > start]


@pytest.mark.parametrize("kind", SIZES)
def test_given_words_become_one_token_each_and_no_id_changes(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    from transformers import AutoTokenizer

    words = ["photosynthesis", "chlorophyll", "chlorophylls"] + ([] if kind == "wordpiece" else ["光合作用"])
    chosen = settings(source="x", extend=words, special_tokens=["[CITE]", "<|tool|>"])
    tokenizer.make(chosen, Folder(folders[kind]), iter([]), tmp_path)
    before, after = vocabulary(folders[kind]), vocabulary(tmp_path)
    assert after.items() > before.items()
    assert sorted(after.values()) == list(range(len(after)))
    for word in words:
        text = f"叶绿素，{word}，重要" if word == "光合作用" else f"of {word} there"
        was = token_of(kind, folders[kind], text, word)
        assert len(was) > 1 or was == [before.get("[UNK]")]
        [made] = token_of(kind, tmp_path, text, word)
        assert made >= len(before)
    for text in TEXTS[::40]:
        assert list(engine(tmp_path)(text)) == list(engine(folders[kind])(text)), "what holds no new word is as before"
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*DOMAIN[:2], *HELD_OUT]:
        assert loaded(text, add_special_tokens=False)["input_ids"] == list(engine(tmp_path)(text))
        if kind != "wordpiece":
            assert backend(tmp_path).decode(engine(tmp_path)(text), skip_special_tokens=False) == text
    assert {"[CITE]", "<|tool|>"} <= set(loaded.all_special_tokens)
    assert loaded.convert_tokens_to_ids("[CITE]") == len(after) - 1
    assert after["[CITE]"] not in engine(tmp_path)("[CITE]")


@pytest.mark.parametrize("kind", SIZES)
def test_the_words_that_save_most_tokens_are_found(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    source = Folder(folders[kind])
    tokenizer.make(settings(source="x", extend=2), source, iter(DOMAIN), tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    tokenizer.make(settings(source="x", extend=2), source, iter(DOMAIN[::-1]), again)
    assert (again / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    new = set(vocabulary(tmp_path)) - set(vocabulary(folders[kind]))
    shown = {backend(tmp_path).decoder.decode([token]).strip() for token in new}
    best = {"Photosynthesis", "photosynthesis"} if kind == "wordpiece" else {"光合作用"}
    assert best <= shown
    assert len(new) == 2 or kind == "bpe", "BPE brings what lies between"
    fewer = sum(len(engine(tmp_path)(text)) for text in DOMAIN)
    assert fewer < sum(len(engine(folders[kind])(text)) for text in DOMAIN)


def test_the_fast_engine_agrees_on_an_extended_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer.make(settings(source="x", extend=20), Folder(folders["bpe"]), iter(DOMAIN + TEXTS), tmp_path)
    engines = tokenizer.encoders((tmp_path / "tokenizer.json").read_text())
    assert tokenizer.choose(engines, [*DOMAIN, *TEXTS, *HELD_OUT]) == "gigatoken"


def test_what_cannot_be_one_token_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind, word in (("wordpiece", "光合作用"), ("bpe", "two words"), ("unigram", "a<b")):
        with pytest.raises(InputError, match=rf"tokenizer\.extend: '{word}' cannot be one token"):
            tokenizer.make(settings(source="x", extend=[word]), Folder(folders[kind]), iter([]), tmp_path)


def test_a_source_without_additions_is_copied_byte_for_byte(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer.make(settings(source="x", chat_template="{{ messages }}"), Folder(folders["bpe"]), iter([]), tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folders["bpe"] / "tokenizer.json").read_bytes()
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_tokenizer_of_berts_that_names_no_eos_ends_texts_with_sep(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folders["wordpiece"] / "tokenizer.json").read_bytes())
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    assert tokenizer.facts(Folder(tmp_path)) == tokenizer.facts(Folder(folders["wordpiece"]))


# --- settings and the report -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"extend": 5}, "tokenizer.extend"),
        ({"lowercase": True}, "tokenizer.lowercase"),
        ({"type": "wordpiece", "sentinels": 100}, "tokenizer.sentinels"),
        ({"type": "unigram", "source": "x"}, "tokenizer.type"),
        ({"special_tokens": ["<|pad|>"]}, "tokenizer.special_tokens"),
        ({"type": "unigram", "vocab_size": 300}, "tokenizer.vocab_size"),
        ({"vocab_size": 265, "special_tokens": ["<a>", "<b>"]}, "tokenizer.vocab_size"),
    ],
)
def test_settings_that_contradict_each_other_are_named(given: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in tokenizer.problems(settings(**given))] == [path]


@pytest.mark.parametrize("token", ["speaker", "<two words>", "", "<open"])
def test_a_special_token_that_a_document_could_hold_as_a_word_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="special_tokens"):
        settings(special_tokens=[token])


def test_the_report_counts_by_language_and_source(folders: dict[str, Path]) -> None:
    texts = ["The student likes the dog", "我们学习中文", "龘", "zzz qqq"]
    groups = (["en", "zh", "zh", ""], ["a", "b", "b", "a"])
    made = tokenizer.report((folders["wordpiece"] / "tokenizer.json").read_text(), texts, *groups)
    assert made["all"]["texts"] == 4
    assert (set(made["languages"]), set(made["sources"])) == ({"en", "zh", "und"}, {"a", "b"})
    english = made["languages"]["en"]
    assert (english["words"], english["tokens"], english["fertility"]) == (5, 5, 1.0)
    assert (english["coverage"], english["unknown_rate"], english["chars_per_token"]) == (1.0, 0.0, 5.0)
    chinese = made["languages"]["zh"]
    assert (chinese["tokens"], chinese["words"]) == (7, 4), "我们 学习 中文 and a character nobody knows"
    assert (chinese["coverage"], chinese["unknown_rate"]) == (round(6 / 7, 6), round(1 / 7, 6))
    assert made["languages"]["und"]["unknown_rate"] == 1.0


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_characters_spelt_in_bytes_are_not_covered(folders: dict[str, Path], kind: str) -> None:
    described = (folders[kind] / "tokenizer.json").read_text()
    made = tokenizer.report(described, ["the dog", "学龘", "龘😀"], ["en", "zh", "zz"], ["s"] * 3)
    figures = {name: made["languages"][name] for name in ("en", "zh", "zz")}
    assert [figures[name]["coverage"] for name in figures] == [1.0, 0.5, 0.0]
    assert made["all"]["unknown_rate"] == 0.0
    assert figures["zz"]["tokens"] >= 7
    assert tokenizer.report(described, [], [], [])["all"]["fertility"] == 0.0


def test_a_long_run_of_unknown_letters_is_counted_in_no_time(folders: dict[str, Path]) -> None:
    described = (folders["unigram"] / "tokenizer.json").read_text()
    made = tokenizer.report(described, ["龘" * 100_000 + "学"], ["zh"], ["s"])
    assert made["all"]["coverage"] == round(1 / 100_001, 6)
