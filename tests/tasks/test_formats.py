"""What a task makes of an example, token by token."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manta.errors import InputError
from manta.sections.tasks import ChatTask, SummarisationTask
from manta.tasks import ANSWERING, TASKS, summarisation
from manta.tasks.encoding import conversation

SHORT = SummarisationTask(name="summarisation", max_input_tokens=64, max_target_tokens=16)
CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "?"},
    {"role": "assistant", "content": "No"},
]


def scored_text(encoded: conversation.Encoded, tokenizer: Any) -> list[tuple[str, bool]]:
    """The tokens as text, each with whether it is learnt; a learnt token's label is the token itself."""
    assert all(label in (-100, token) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))
    return [
        (tokenizer.decode([token]), label != -100)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
    ]


def test_summary_and_its_end_are_learnt_and_nothing_else(tokenizer: Any) -> None:
    example = {"input": "A b", "target": "Ok"}
    found = scored_text(TASKS["summarisation"].encode(example, tokenizer, SHORT), tokenizer)
    prompt = ["<|user|>", "\n", *summarisation.INSTRUCTION, "A", " ", "b", "<|end|>", "\n", "<|assistant|>", "\n"]
    assert found == [(piece, False) for piece in prompt] + [("O", True), ("k", True), ("<|end|>", True)]


def test_only_the_assistant_is_learnt_in_a_conversation(tokenizer: Any) -> None:
    encoded = TASKS["chat"].encode({"messages": CHAT}, tokenizer, ChatTask(name="chat"))
    user1 = ["<|user|>", "\n", "H", "i", "<|end|>", "\n", "<|assistant|>", "\n"]
    user2 = ["\n", "<|user|>", "\n", "?", "<|end|>", "\n", "<|assistant|>", "\n"]
    assert scored_text(encoded, tokenizer) == [
        *((piece, False) for piece in user1),
        *((piece, True) for piece in ("Y", "o", "<|end|>")),
        *((piece, False) for piece in user2),
        *((piece, True) for piece in ("N", "o", "<|end|>")),
    ]
    assert not encoded.truncated


@pytest.mark.parametrize("example", [{"input": "What a day", "target": "Yes"}, {"messages": CHAT}])
def test_the_model_is_asked_exactly_as_it_was_taught(example: dict[str, Any], tokenizer: Any) -> None:
    task = TASKS["chat"]
    encoded = task.encode(example, tokenizer, ChatTask(name="chat"))
    asked = tokenizer.apply_chat_template(task.question(example), add_generation_prompt=True, return_dict=False)
    assert encoded.input_ids[: len(asked)] == asked
    assert tokenizer.decode(encoded.input_ids[len(asked) : -1]) == task.reference(example)


def test_a_long_input_is_cut_alike_in_training_and_in_asking(tokenizer: Any) -> None:
    example = {"input": "x" * 100, "target": "short"}
    encoded = TASKS["summarisation"].encode(example, tokenizer, SHORT)
    asked = tokenizer.apply_chat_template(
        summarisation.question(example, tokenizer, SHORT), add_generation_prompt=True, return_dict=False
    )
    assert encoded.truncated
    assert encoded.input_ids[: len(asked)] == asked
    assert tokenizer.decode(asked).count("x") == SHORT.max_input_tokens


def test_a_target_that_was_cut_is_not_ended(tokenizer: Any) -> None:
    encoded = TASKS["summarisation"].encode({"input": "a", "target": "y" * 40}, tokenizer, SHORT)
    assert encoded.truncated
    learnt = [token for token, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != -100]
    assert tokenizer.decode(learnt) == "y" * SHORT.max_target_tokens


def test_a_long_conversation_is_cut(tokenizer: Any) -> None:
    encoded = TASKS["chat"].encode({"messages": CHAT}, tokenizer, ChatTask(name="chat", max_tokens=10))
    assert encoded.truncated
    assert len(encoded.input_ids) == len(encoded.labels) == 10


def test_an_end_token_inside_an_answer_does_not_cut_it(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a<|end|>b"}]
    _, labels = conversation.encode(messages, tokenizer)
    assert tokenizer.decode([label for label in labels if label != -100]) == "a<|end|>b<|end|>"


def test_templates_that_cannot_be_trained_on_are_refused(tokenizer: Any) -> None:
    import copy

    odd = copy.deepcopy(tokenizer)
    odd.chat_template = "{{ messages|length }}{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
    with pytest.raises(InputError, match="rewrites earlier turns"):
        conversation.encode(CHAT, odd)
    odd.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    with pytest.raises(InputError, match="ends an answer with no special token"):
        conversation.encode(CHAT, odd)
    odd.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        conversation.encode(CHAT, odd)


def test_generation_stops_where_the_template_ends_an_answer(tokenizer_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tokenizer_folder, tmp_path / "model"))
    conversation.stop_at_end(folder)
    conversation.stop_at_end(folder)
    # <|endoftext|> is the first special token of `prepare`'s tokenizers, <|end|> the last of seven
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 6]


def test_decode_takes_the_first_line_that_says_something() -> None:
    assert TASKS["summarisation"].decode("\n  Return it. \nMore") == "Return it."
    assert TASKS["summarisation"].decode(" \n") == ""
    assert TASKS["chat"].decode(" two\nlines ") == "two\nlines"


def test_every_task_has_the_same_shape() -> None:
    for name, task in ANSWERING.items():
        for function in ("format", "question", "reference", "decode", "max_new_tokens", "encode", "score"):
            assert callable(getattr(task, function, None)), f"{name} lacks {function}"


def test_formats_load_no_engine() -> None:
    code = "import sys, manta.tasks; print([m for m in ('torch', 'transformers', 'numpy', 'ray') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
