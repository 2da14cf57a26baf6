"""Reading labelled examples, good and bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from manta.errors import InputError
from manta.tasks import examples

PAIR = {"input": "text", "target": "gist"}
ASK = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def jsonl(folder: Path, *records: Any) -> str:
    file = folder / "data.jsonl"
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return str(file)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ("{broken", "line 2 is not JSON"),
        ([1], "line 2 is not an object but list"),
        ({"input": "x"}, "line 2 has no 'target' \\(it has 'input'\\)"),
        ({"input": "x", "target": ""}, "line 2 has an 'target' that is empty"),
        ({"input": 3, "target": "y"}, "line 2 has an 'input' that is no text but 3"),
        ({"messages": []}, "line 2 has 'messages' that are not a list"),
        ({"messages": [{"role": "human", "content": "x"}]}, "line 2 has a message 1 of role 'human'"),
        ({"messages": [ASK, {"role": "assistant"}]}, "line 2 has a message 2 without text"),
        ({"messages": [ANSWER, ASK]}, "line 2 has roles that do not take turns"),
        ({"messages": [ASK]}, "line 2 does not end with the assistant's answer"),
    ],
)
def test_bad_lines_are_named_by_number(tmp_path: Path, record: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        examples.read(jsonl(tmp_path, PAIR, record), "train")


def test_all_bad_lines_are_told_at_once_but_not_a_thousand(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        examples.read(jsonl(tmp_path, *["nonsense"] * 1000), "train")
    assert "has 1000 bad of 1000" in str(refusal.value)
    assert "and 992 more" in str(refusal.value)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(json.dumps(PAIR).encode() + b'\n{"input": "caf\xe9"}\n')
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        examples.read(str(tmp_path / "x.jsonl"), "train")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("input,target\n")
    with pytest.raises(InputError, match=r"neither \.jsonl nor \.parquet"):
        examples.read(str(tmp_path / "x.csv"), "train")


def test_one_file_is_split_by_what_is_asked(tmp_path: Path) -> None:
    records = [{"input": f"text {number % 200}", "target": str(number)} for number in range(400)]
    file = jsonl(tmp_path, *records)
    train, validation = (examples.read(file, split, 0.2) for split in ("train", "validation"))
    assert len(train) + len(validation) == 400
    assert not {e["input"] for e in train} & {e["input"] for e in validation}
    assert 40 <= len(validation) <= 120
    assert train == [record for record in records if record in train], "the order is kept"


def test_both_sides_of_the_split_must_hold_something(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"validation_fraction = 0.0 leaves 1 to train on and 0"):
        examples.check(jsonl(tmp_path, PAIR), "chat", 0.0)


def test_parquet_and_artifacts(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "examples").mkdir()
    for split in ("train", "validation"):
        table = pa.table({"input": [split], "target": ["gist"], "more": [1]})
        pq.write_table(table, tmp_path / f"examples/{split}.parquet")
    assert examples.read(str(tmp_path), "validation") == [{"input": "validation", "target": "gist"}]
    examples.check(str(tmp_path), "summarisation", 0.05)
    chats = pa.table({"messages": [[ASK, ANSWER]] * 2})
    pq.write_table(chats, tmp_path / "chats.parquet")
    assert examples.read(str(tmp_path / "chats.parquet"), "train", 0.0) == [{"messages": [ASK, ANSWER]}] * 2
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="has the columns text"):
        examples.read(str(tmp_path / "other.parquet"), "train")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        examples.read(str(tmp_path / "torn.parquet"), "train")


def test_an_artifact_without_examples_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.examples=docstring_summary"):
        examples.check(str(tmp_path), "summarisation", 0.05)


def test_conversations_do_not_fit_summarisation(tmp_path: Path) -> None:
    file = jsonl(tmp_path, *[{"messages": [ASK, ANSWER]}] * 3)
    with pytest.raises(InputError, match=r"set task.name=chat"):
        examples.check(file, "summarisation", 0.5)


def test_fewer_rows_are_part_of_more_rows() -> None:
    pool = [{"input": str(number), "target": "x"} for number in range(50)]
    few, more = examples.choose(pool, 10), examples.choose(pool, 20)
    assert len(few) == 10
    assert [example for example in more if example in few] == few
    assert examples.choose(pool, None) == examples.choose(pool, 99) == pool
