"""Files that cannot be learnt from: each kind is answered before anything starts, with line numbers and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from manta.errors import InputError
from manta.progress import Progress
from manta.sections.tasks import ClassificationTask
from manta.tasks import examples
from tests.tasks.test_task_examples import ANSWER, ASK, CHAT, CLASSES, SEVERAL, SUMMARIES, TAGS, data, jsonl, of

GOOD = {"text": "fine", "label": "x"}


def refusal(inputs: Any, task: Any, **columns: str) -> str:
    with pytest.raises(InputError) as error:
        examples.check(inputs, data(0.5, **columns), task)
    return str(error.value)


# --- the ten kinds ---------------------------------------------------------------------------------------------------


def test_wrong_column(tmp_path: Path) -> None:
    jsonl(tmp_path / "x.jsonl", *[{"sentence": "s", "label": "x"}] * 3)
    (tmp_path / "x.csv").write_text("sentence,label\na,x\n")
    for file in ("x.jsonl", "x.csv"):
        assert refusal(of(tmp_path / file), CLASSES) == (
            f"data.examples: {tmp_path / file} has the columns sentence, label; classification needs text and label: "
            "say which it is, such as data.columns.text=sentence"
        )
    said = refusal(of(tmp_path / "x.csv"), CLASSES, text="sentense")
    assert said.endswith("has the columns sentence, label; data.columns names 'sentense': name one that there is")
    said = refusal(of(tmp_path / "x.csv"), CLASSES, txt="sentence")
    assert (
        said
        == "data.columns.txt = 'sentence': classification has the fields text, text_pair, label: did you mean 'text'?"
    )
    mixed = jsonl(tmp_path / "y.jsonl", GOOD, {"sentence": "s", "label": "x"})
    assert "line 2 has no 'text' (it has 'sentence', 'label')" in refusal(of(mixed), CLASSES)


def test_wrong_type_of_label(tmp_path: Path) -> None:
    wrong = [{**GOOD, "label": 0.5}, {**GOOD, "label": True}, {**GOOD, "label": ["x"]}, {**GOOD, "label": " "}]
    said = refusal(of(jsonl(tmp_path / "x.jsonl", GOOD, *wrong)), CLASSES)
    assert said.splitlines() == [
        f"data.examples: {tmp_path}/x.jsonl has 4 bad of 5; mend or delete them:",
        "  line 2 has a 'label' that is a number and not text: 0.5",
        "  line 3 has a 'label' that is a truth value and not text: True",
        "  line 4 has a 'label' that is a list and not text: ['x']",
        "  line 5 has an empty 'label'",
    ]
    file = jsonl(tmp_path / "y.jsonl", {"text": "t", "labels": ["a"]})
    assert refusal(of(file), CLASSES).endswith("set task.several=true, if any number of labels may hold at once")
    assert refusal(of(jsonl(file, GOOD)), SEVERAL).endswith("set task.several=false, if each text has one label")


def test_empty_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('text,label\na,x\n"two\nlines",x\n  ,y\n')
    assert refusal(of(tmp_path / "x.csv"), CLASSES).endswith(
        "has 1 bad of 3; mend or delete them:\n  line 5 has an empty 'text'"
    )


def test_mixed_encodings(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"text": "caf\xe9", "label": "y"}\n')
    said = refusal(of(tmp_path / "x.jsonl"), CLASSES)
    assert "line 2 is not UTF-8 (byte 0xe9 at 14): save it as UTF-8 (such as: iconv -f CP1252 -t UTF-8 FILE)" in said
    (tmp_path / "x.csv").write_bytes("text,label\ncafé,x\n".encode() + b"caf\xe9,y\nna\xefve,y\n")
    said = refusal(of(tmp_path / "x.csv"), CLASSES)
    assert "x.csv mixes encodings: line 3 is not UTF-8 (byte 0xe9 at 4), and 1 more lines: save it as UTF-8" in said
    for name in ("y.csv", "y.jsonl", "y.json"):
        (tmp_path / name).write_text("text,label\na,x\n", encoding="utf-16")
        assert "is UTF-16: save it as UTF-8 (such as: iconv -f UTF-16" in refusal(of(tmp_path / name), CLASSES)
    half = jsonl(
        tmp_path / "z.jsonl", GOOD, '{"text": "\\ud83d", "label": "y"}', '{"text": "\\ud83d\\ude00", "label": "y"}'
    )
    assert refusal(of(half), CLASSES).endswith(
        "line 2 holds half a surrogate pair, which is no character: write the text as UTF-8"
    )


def test_duplicates(tmp_path: Path) -> None:
    other = {"text": "other", "label": "y"}
    found = examples.load(of(jsonl(tmp_path / "x.jsonl", GOOD, other, GOOD, other, GOOD)), data(0.5), CLASSES)
    assert found.notes == (
        f"{tmp_path}/x.jsonl repeats examples 3 times (line 3 is line 1 again; line 4 is line 2 again; line 5 is line 1 again): "
        "delete what is not meant to weigh more",
    )
    assert len(found.train) + len(found.validation) == 5, "nothing is taken away"


def test_the_same_text_labelled_differently(tmp_path: Path) -> None:
    records = [GOOD, {**GOOD, "label": "y"}, {**GOOD, "text_pair": "b", "label": "y"}]
    found = examples.load(of(jsonl(tmp_path / "x.jsonl", *records)), data(0.5), CLASSES)
    assert found.notes == (
        f"{tmp_path}/x.jsonl labels the same text differently 1 times (line 2 has 'y', line 1 'x'): keep the right one",
    )
    (tmp_path / "x.conll").write_text("Jo O\n\nJo B-PER\n\nJo I-PER\n\nJo X\n\nJo Y\n")
    (told,) = examples.load(of(tmp_path / "x.conll"), data(0.5), TAGS).notes
    assert "line 3 has ['B-PER'], line 1 ['O']; " in told
    assert "; and 1 more): keep" in told
    answers = jsonl(tmp_path / "y.jsonl", {"input": "q", "target": "a"}, {"input": "q", "target": "b"})
    assert examples.load(of(answers), data(0.5), CHAT).notes == (), "a question may have several answers"


def test_leak_between_the_files(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "a.jsonl", *[{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(9)])
    two = jsonl(
        tmp_path / "b.jsonl", {"text": "t4", "label": "b"}, {"text": "new", "label": "a"}, {"text": "t0", "label": "a"}
    )
    assert refusal(of(one, two), CLASSES) == (
        f"data.validation: 2 of the 3 examples of {two} are also trained on, in {one} (line 1 asks what line 5 does; line 3 asks "
        "what line 1 does): delete them from one of the two"
    )


def test_one_class_only(tmp_path: Path, tokenizer_folder: Path, silent: Progress) -> None:
    from manta.storage import Folder
    from manta.tasks.encoding import rows
    from tests.tasks.test_rows import recipe

    file = jsonl(tmp_path / "x.jsonl", *[{"text": f"t{n}", "label": "x"} for n in range(9)])
    task = {"task": ClassificationTask(name="classification"), "data": data(0.5)}
    with pytest.raises(
        InputError, match=r"only the label 'x', so there is nothing to tell apart: add examples of other"
    ):
        rows.write(recipe().model_copy(update=task), of(file), tokenizer_folder, Folder(tmp_path / "rows"), silent)


def test_broken_json(tmp_path: Path) -> None:
    said = refusal(of(jsonl(tmp_path / "x.jsonl", GOOD, "", "{broken", [1])), CLASSES)
    assert said.splitlines() == [
        f"data.examples: {tmp_path}/x.jsonl has 2 bad of 3; mend or delete them:",
        "  line 3 is not JSON (Expecting property name enclosed in double quotes at column 2)",
        "  line 4 is not an object but list",
    ]
    (tmp_path / "y.json").write_text('[{"text": "a", "label": "x"},\n {"text": "b" "label": "y"}]')
    assert "y.json is broken JSON: line 2, column 15: Expecting ',' delimiter: mend it" in refusal(
        of(tmp_path / "y.json"), CLASSES
    )
    said = refusal(of(jsonl(tmp_path / "z.jsonl", *["nonsense"] * 1000)), CHAT)
    assert "has 1000 bad of 1000" in said
    assert said.endswith("and 992 more")


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"input": "x"}, r"line 2 has no 'target' \(it has 'input'\)"),
        ({"input": "x", "target": ""}, "line 2 has an empty 'target'"),
        ({"input": 3, "target": "y"}, "line 2 has no text in 'input' but 3"),
        ({"messages": []}, "line 2 has 'messages' that are not a list"),
        ({"messages": [{"role": "human", "content": "x"}]}, "line 2 has a message 1 of role 'human': choose one of system,"),
        ({"messages": [ASK, {"role": "assistant"}]}, "line 2 has a message 2 without text"),
        ({"messages": [ANSWER, ASK]}, "line 2 has roles that do not take turns"),
        ({"messages": [ASK, ANSWER, ANSWER]}, r"line 2 has roles that do not take turns .*\(user, assistant, assistant\)"),
        ({"messages": [ASK]}, "line 2 does not end with the assistant's answer"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "line 2 has a turn 1 from 'tool': known are system, human"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt"}]}, "line 2 has a message 2 without text"),
        ({"instruction": "x", "input": "", "output": ""}, "line 2 has an empty 'output'"),
    ],
)  # fmt: skip
def test_wrong_roles_and_turns(tmp_path: Path, record: Any, complaint: str) -> None:
    file = jsonl(tmp_path / "x.jsonl", {"input": "text", "target": "gist"}, record)
    with pytest.raises(InputError, match=complaint):
        examples.check(of(file), data(), CHAT)


# --- more ------------------------------------------------------------------------------------------------------------


def test_conversations_do_not_fit_other_tasks(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "x.jsonl", *[{"messages": [ASK, ANSWER]}] * 3)
    assert refusal(of(file), SUMMARIES).endswith(
        "summarisation needs input and target: these are conversations: set task.name=chat"
    )
    file = jsonl(tmp_path / "y.jsonl", *[{"prompt": "a", "reply": "b"}] * 3)
    assert refusal(of(file), CHAT).endswith(
        "has the columns prompt, reply; chat needs messages, or input and target: say which it is, such as data.columns.input=prompt"
    )


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.docx", b"PK", r"x\.docx is of no known format: give it one of these endings"),
        ("x.conll", b"Jo B-PER\n", "x.conll is of no known format"),
        ("x.parquet", b"PAR1", "cannot be read as Parquet"),
        ("x.csv", b"", "has no header: name the columns in its first line"),
        ("x.csv", b"text,label,text\na,b,c\n", "has a header that names 'text' twice"),
        ("x.csv", b"text,label\na,x\nb\n", "line 3 has 1 cells where the header has 2"),
        ("x.csv", b'text,label\na,x\n"b" c,x\n', "line 3 is broken CSV"),
        ("x.csv", b'text,label\na,x\n"b,x\nc,y\n', "line 3 is broken CSV"),
        ("x.jsonl", b"\n\n", "holds no examples"),
        ("x.json", b"[]", "holds no examples"),
        ("x.json", b'[{"text": "a", "label": "x"}, 7]', "item 2 is not an object but int"),
    ],
)
def test_other_damage(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        examples.check(of(tmp_path / name), data(), CLASSES)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            "Jo B-PER\nran\n\nHi O\n\nx O\n",
            "has 1 bad of 3; mend or delete them:\n  line 2 has 1 columns, the file's first line 2",
        ),
        ("Jo\nran\n", "line 1 has one column: a word and its tag are needed"),
    ],
)
def test_words_without_tags(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "x.conll").write_text(content)
    assert complaint in refusal(of(tmp_path / "x.conll"), TAGS)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 2 has 2 tokens and 1 tags: each token needs one"),
        ({"tokens": "a b", "tags": ["O"]}, "line 2 has no list of words in 'tokens' but 'a b'"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "line 2 has a word 2 in 'tokens' that is no text: ' '"),
        ({"tokens": ["a"], "tags": [3]}, "line 2 has a tag 1 in 'tags' that is no name such as 'O' or 'B-PER': 3"),
        ({"tokens": ["a"]}, "line 2 has no 'tags' (it has 'tokens')"),
    ],
)
def test_tokens_and_tags(tmp_path: Path, record: Any, complaint: str) -> None:
    file = jsonl(tmp_path / "x.jsonl", {"tokens": ["a"], "tags": ["O"]}, record)
    assert complaint in refusal(of(file), TAGS)


def test_a_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["x", "y"]}), tmp_path / "x.parquet")
    assert "row 2 is not UTF-8" in refusal(of(tmp_path / "x.parquet"), CLASSES)
