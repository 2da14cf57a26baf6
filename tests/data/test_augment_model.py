"""Documents written anew by a model in this process: tiny ones whose every next word is known, and how texts are cut."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from manta.data import augment, dedup
from manta.data.augment import pieces
from manta.errors import InputError
from manta.sections.augment import Augmentation

END = "<end>"
WORDS = [
    END,
    "<pad>",
    "<unk>",
    "one",
    "two",
    "three",
    "four",
    "home",
    "away",
    "loop",
    "again",
    "none",
    "船",
    "离开",
    "港口",
    "say",
    ":",
]
# What follows a word. After "four" two words are equally likely; "loop" never ends; after "none" the answer is empty.
NEXT = {
    "one": ["two"], "two": ["three"], "three": [END], "four": ["home", "away"], "home": [END], "away": [END],
    "loop": ["again"], "again": ["loop"], "none": [END], "船": ["离开"], "离开": ["港口"], "港口": [END],
    ":": ["one"],
}  # fmt: skip


def save_tokenizer(folder: Path, template: str | None = None) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": END, "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=plain, chat_template=template, **special).save_pretrained(folder)


def follows() -> Any:
    """(vocab, vocab): what the head adds to each next word after each word."""
    import torch

    table = torch.zeros(len(WORDS), len(WORDS))
    for word, others in NEXT.items():
        for other in others:
            table[WORDS.index(other), WORDS.index(word)] = 10.0
    return table


def chain(folder: Path, template: str | None = None, positions: int = 64) -> str:
    """A decoder of two layers that add nothing: its head sees the last word alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = len(WORDS)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size + 1, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1,
        max_position_embeddings=positions, eos_token_id=0, pad_token_id=1, bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, size + 1))
        model.lm_head.weight.copy_(torch.nn.functional.pad(follows(), (0, 1)))
    model.save_pretrained(folder)
    save_tokenizer(folder, template)
    return str(folder)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return chain(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder-decoder as a finished artifact keeps it, in `model`; whatever it reads, it says "away"."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    size, folder = len(WORDS), tmp_path_factory.mktemp("translator")
    config = T5Config(
        vocab_size=size, d_model=size, d_kv=8, d_ff=8, num_layers=2, num_heads=1, eos_token_id=0, pad_token_id=1,
        decoder_start_token_id=1,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                weight.zero_()
        # The head is the embedding, so what follows a word is what points its way: <pad> -> away -> <end>.
        begin, say, end = (WORDS.index(word) for word in ("<pad>", "away", END))
        model.shared.weight.zero_()
        model.shared.weight[begin, 0] = model.shared.weight[end, 0] = model.shared.weight[say, 1] = 1.0
        model.shared.weight[say, 0], model.shared.weight[end, 1] = 2.0, 100.0
    model.save_pretrained(folder / "model")
    save_tokenizer(folder / "model")
    return str(folder)


def made(
    texts: list[str], raw: dict[str, Any], counted: Counter[str] | None = None, seed: int = 0
) -> dict[str, list[str]]:
    """The variants of each text; texts without any are not there."""
    chosen = TypeAdapter(list[Augmentation]).validate_python([{"share": 1.0} | raw])
    found: dict[str, list[str]] = {}
    digests = [dedup.digest(text) for text in texts]
    for v in augment.variants(texts, [""] * len(texts), digests, chosen, seed, counted):
        found.setdefault(texts[v.document], []).append(v.text)
    return found


def test_a_model_writes_what_it_knows(decoder: str) -> None:
    found = made(["one", "two", "船"], {"augment": "rewrite", "model": decoder})
    assert found == {"one": ["two three"], "two": ["three"], "船": ["离开 港口"]}


def test_the_prompt_surrounds_the_text(decoder: str) -> None:
    found = made(["loop"], {"augment": "rewrite", "model": decoder, "prompt": "say {text} :"})
    assert found == {"loop": ["one two three"]}


def test_answers_without_an_end_are_left_out_and_counted(decoder: str) -> None:
    counted: Counter[str] = Counter()
    texts = ["one", "loop", "none", "one " * 70, "three one two three"]
    found = made(texts, {"augment": "rewrite", "model": decoder, "max_new_tokens": 5}, counted)
    assert found == {"one": ["two three"]}
    assert counted == {"rewrite.cut_off": 1, "rewrite.empty": 2, "rewrite.too_long": 1}


def test_an_answer_has_what_room_the_prompt_leaves(decoder: str) -> None:
    counted: Counter[str] = Counter()
    fits, tight = "two " * 60 + "one", "two " * 62 + "one"  # 64 positions; the answer takes three
    assert set(made([fits, tight], {"augment": "rewrite", "model": decoder}, counted)) == {fits}
    assert counted == {"rewrite.cut_off": 1}


def test_sampling_follows_the_documents_own_seed(decoder: str) -> None:
    texts = [f"{'one ' * n}four" for n in range(1, 20)]
    drawn: dict[str, Any] = {"augment": "rewrite", "model": decoder, "temperature": 0.5}
    found = made(texts, drawn)
    assert {text for [text] in found.values()} == {"home", "away"}
    assert found == made(texts[:5], drawn) | made(texts[5:], drawn), "whatever stands beside a document"
    assert found != made(texts, drawn, seed=1)
    assert {text for [text] in made(texts, drawn | {"temperature": 0.0}).values()} == {"home"}, (
        "greedy: always the same"
    )
    assert {len(both) for both in made(texts, drawn | {"copies": 9}).values()} == {2}, "the copies draw anew"


def test_sampling_leaves_other_chance_alone(decoder: str) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    made(["four"], {"augment": "rewrite", "model": decoder, "temperature": 1.0})
    assert torch.rand(1) == expected


def test_long_documents_are_written_in_pieces(decoder: str) -> None:
    text = "  four one\n\ntwo three one\n\n two\n"
    found = made([text], {"augment": "rewrite", "model": decoder, "piece_chars": 15})
    assert found == {text: ["  two three\n\ntwo three\n\n three\n"]}
    counted: Counter[str] = Counter()
    broken = {"augment": "rewrite", "model": decoder, "piece_chars": 8, "max_new_tokens": 9}
    assert made(["one two\n\nloop\n\none two"], broken, counted) == {}, "the whole or nothing"
    assert counted == {"rewrite.cut_off": 1}


def test_a_chat_template_makes_the_prompt_a_message(tmp_path: Path) -> None:
    chatty = chain(tmp_path, "{% for m in messages %}{{ m['role'] == 'user' and m['content'] }}{% endfor %} :")
    assert made(["loop"], {"augment": "rewrite", "model": chatty}) == {"loop": ["one two three"]}


def test_there_and_back(decoder: str, translator: str) -> None:
    both = {
        "augment": "back_translate",
        "there": {"model": translator},
        "back": {"model": decoder, "prompt": "{text} four"},
    }
    assert made(["one", "two"], both) == {"one": ["home"], "two": ["home"]}
    reverse = {
        "augment": "back_translate",
        "there": {"model": decoder, "max_new_tokens": 4},
        "back": {"model": translator},
    }
    counted: Counter[str] = Counter()
    assert made(["loop", "one", "none"], reverse, counted) == {"one": ["away"]}
    assert counted == {"back_translate.cut_off": 1, "back_translate.empty": 1}


def test_what_cannot_be_loaded_is_told(decoder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.augment.0.model = .* holds no model"):
        made(["one"], {"augment": "rewrite", "model": str(tmp_path)})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match=r"data.augment.0.back.model = .* cannot be loaded"):
        made(["one"], {"augment": "back_translate", "there": {"model": decoder}, "back": {"model": str(tmp_path)}})


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_texts_are_cut_where_the_sense_allows() -> None:
    paragraphs = "Aaa bbb. Ccc.\nDdd eee.\n\nFff ggg. Hhh iii jjj kkk lll."
    assert [p.core for p in pieces.cut(paragraphs, 30)] == ["Aaa bbb. Ccc.\nDdd eee.", "Fff ggg. Hhh iii jjj kkk lll."]
    assert [p.core for p in pieces.cut(paragraphs, 20)] == [
        "Aaa bbb. Ccc.",
        "Ddd eee.\n\nFff ggg.",
        "Hhh iii jjj kkk lll.",
    ]
    assert pieces.cut(paragraphs, 16)[1] == pieces.Piece("", "Ddd eee.", "\n\n")
    assert [p.core for p in pieces.cut(paragraphs, 16)[2:]] == ["Fff ggg. Hhh", "iii jjj kkk lll."]
    chinese = "早晨的港口非常安静。没有人相信“那艘船。”会回到这座城市！第二天。"
    assert [p.core for p in pieces.cut(chinese, 22)] == [
        "早晨的港口非常安静。没有人相信“那艘船。”",
        "会回到这座城市！第二天。",
    ]
    assert [p.core for p in pieces.cut("a" * 25, 10)] == ["a" * 10, "a" * 10, "a" * 5]


@given(st.text(st.sampled_from("ab。. \n"), max_size=80), st.integers(1, 20))
def test_pieces_are_the_text(text: str, limit: int) -> None:
    found = pieces.cut(text, limit)
    assert "".join(p.before + p.core + p.after for p in found) == text
    assert all(len(p.core) <= limit and p.core == p.core.strip() for p in found)
