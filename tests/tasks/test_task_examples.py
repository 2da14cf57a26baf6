"""Labelled examples of every task, split and chosen."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from manta.artifact import Resolved
from manta.errors import InputError
from manta.sections.outcome import EvaluateData
from manta.sections.tasks import ChatTask, ClassificationTask, SummarisationTask, TaggingTask, Task
from manta.sections.train import FinetuneData
from manta.tasks import examples

CHAT = ChatTask(name="chat")
SUMMARIES = SummarisationTask(name="summarisation")
CLASSES = ClassificationTask(name="classification")
SEVERAL = ClassificationTask(name="classification", several=True)
TAGS = TaggingTask(name="tagging")

ASK = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def of(path: Any, validation: Any = None) -> dict[str, Resolved]:
    found = {"data.examples": Resolved("data.examples", str(path), "file", str(path), "", "")}
    if validation is not None:
        found["data.validation"] = Resolved("data.validation", str(validation), "file", str(validation), "", "")
    return found


def data(fraction: float = 0.05, **columns: str) -> FinetuneData:
    return FinetuneData(examples="./x", validation_fraction=fraction, columns=columns)


def jsonl(file: Path, *records: Any) -> Path:
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return file


def train(path: Any, task: Task, **columns: str) -> list[dict[str, Any]]:
    return examples.read(of(path), "train", data(0.0, **columns), task)


# --- splits ----------------------------------------------------------------------------------------------------------


def test_one_file_is_split_by_what_is_asked(tmp_path: Path) -> None:
    records = [{"input": f"text {number % 200}", "target": str(number)} for number in range(400)]
    file = jsonl(tmp_path / "x.jsonl", *records)
    found = examples.load(of(file), data(0.2), CHAT)
    assert len(found.train) + len(found.validation) == 400
    assert not {e["input"] for e in found.train} & {e["input"] for e in found.validation}
    assert found.train == [record for record in records if record in found.train], "the order is kept"
    first = int(hashlib.sha256(b'"text 0"').hexdigest()[:15], 16) / 16**15  # the rule, worked out once more
    assert ("text 0" in {e["input"] for e in found.validation}) == (first < 0.2)
    assert examples.read(of(file), "validation", data(0.2), CHAT) == found.validation
    assert examples.read(of(file), "validation", EvaluateData(validation_fraction=0.2), CHAT) == found.validation


def test_each_label_stands_on_both_sides_in_its_share(tmp_path: Path) -> None:
    counts = {"often": 200, "seldom": 20, "twice": 2, "once": 1}
    records = [{"text": f"{label} {n}", "label": label} for label, count in counts.items() for n in range(count)]
    found = examples.load(of(jsonl(tmp_path / "x.jsonl", *records)), data(0.1), CLASSES)
    assert Counter(e["label"] for e in found.validation) == {"often": 20, "seldom": 2, "twice": 1}
    assert Counter(e["label"] for e in found.train) == {"often": 180, "seldom": 18, "twice": 1, "once": 1}
    shuffled = jsonl(tmp_path / "y.jsonl", *reversed(records))
    other = examples.load(of(shuffled), data(0.1), CLASSES)
    assert sorted(e["text"] for e in other.validation) == sorted(e["text"] for e in found.validation)
    most = examples.load(of(tmp_path / "x.jsonl"), data(0.99), CLASSES)
    assert Counter(e["label"] for e in most.train) == {"often": 2, "seldom": 1, "twice": 1, "once": 1}
    for fraction, left in ((0.0, 0), (1.0, len(records))):
        assert len(examples.load(of(tmp_path / "x.jsonl"), data(fraction), CLASSES).validation) == left


def test_a_text_with_two_labels_stands_on_one_side(tmp_path: Path) -> None:
    records = [{"text": f"t{n // 2}", "label": "ab"[n % 2]} for n in range(200)]
    found = examples.load(of(jsonl(tmp_path / "x.jsonl", *records)), data(0.3), CLASSES)
    assert found.validation
    assert not {e["text"] for e in found.train} & {e["text"] for e in found.validation}


def test_of_several_labels_the_rarest_counts(tmp_path: Path) -> None:
    records = [{"text": f"t{n}", "labels": ["common", "rare"] if n < 10 else ["common"]} for n in range(100)]
    records += [{"text": "none holds", "labels": []}, {"text": "nor here", "labels": []}]
    found = examples.load(of(jsonl(tmp_path / "x.jsonl", *records)), data(0.1), SEVERAL)
    assert Counter(len(e["labels"]) for e in found.validation) == {2: 1, 1: 9, 0: 1}


def test_fewer_rows_are_part_of_more_rows() -> None:
    pool = [{"input": str(number), "target": "x"} for number in range(50)]
    few, more = examples.choose(pool, 10), examples.choose(pool, 20)
    assert len(few) == 10
    assert [example for example in more if example in few] == few
    assert examples.choose(pool, None) == examples.choose(pool, 99) == pool


# --- two files, artifacts --------------------------------------------------------------------------------------------


def test_a_second_file_validates_and_the_first_is_not_split(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "a.jsonl", *[{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(50)])
    (tmp_path / "b.csv").write_text("text,label\nnew,a\n")
    inputs = of(one, tmp_path / "b.csv")
    found = examples.check(inputs, data(0.5), CLASSES)
    assert len(found.train) == 50
    assert found.validation == [{"text": "new", "label": "a"}]
    one.unlink()
    assert examples.read(inputs | of(tmp_path / "b.csv"), "validation", data(), CLASSES) == found.validation


def test_an_artifact_holds_both_splits(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "examples").mkdir()
    for split in ("train", "validation"):
        table = pa.table({"input": [split], "target": ["gist"], "more": [1]})
        pq.write_table(table, tmp_path / f"examples/{split}.parquet")
    for task in (SUMMARIES, CHAT):
        assert examples.read(of(tmp_path), "validation", data(), task) == [{"input": "validation", "target": "gist"}]
        assert examples.check(of(tmp_path), data(), task).train == [{"input": "train", "target": "gist"}]
    with pytest.raises(InputError, match=r"holds validation examples of its own: set data.validation=null"):
        examples.check(of(tmp_path, tmp_path / "x.jsonl"), data(), CHAT)


def test_an_artifact_without_examples_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.examples=docstring_summary"):
        examples.check(of(tmp_path), data(), SUMMARIES)


def test_both_sides_of_the_split_must_hold_something(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "x.jsonl", {"input": "text", "target": "gist"})
    with pytest.raises(InputError, match=r"validation_fraction = 0.0 leaves 1 to train on and 0"):
        examples.check(of(file), data(0.0), CHAT)


# --- formats ---------------------------------------------------------------------------------------------------------

PAIRS = [{"text": 'He said "no",\nthen', "label": "x y"}, {"text": "naïve 漢字", "label": "2"}]


def test_the_same_examples_come_from_every_format(tmp_path: Path) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    jsonl(tmp_path / "a.jsonl", *PAIRS)
    (tmp_path / "b.json").write_text(json.dumps(PAIRS, indent=1))
    pq.write_table(pa.table({"text": [p["text"] for p in PAIRS], "label": ["x y", "2"]}), tmp_path / "c.parquet")
    with (tmp_path / "d.csv").open("w", newline="", encoding="utf-8-sig") as handle:
        csv.writer(handle).writerows([["label", "text"], *([p["label"], p["text"]] for p in PAIRS)])
    with (tmp_path / "e.csv").open("w", newline="") as handle:
        csv.writer(handle, delimiter=";").writerows([["label", "text"], *([p["label"], p["text"]] for p in PAIRS)])
    for file in sorted(tmp_path.iterdir()):
        assert train(file, CLASSES) == PAIRS, file.name
    (tmp_path / "f.tsv").write_text('text\tlabel\n"Well" he said\tx\nthen "\ty\n')
    assert train(tmp_path / "f.tsv", CLASSES) == [
        {"text": '"Well" he said', "label": "x"},
        {"text": 'then "', "label": "y"},
    ]


def test_cells_of_a_table_hold_lists(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,labels\nt,a|b c\nu,\nv,"[""d"", ""e""]"\n')
    assert [e["labels"] for e in train(tmp_path / "a.csv", SEVERAL)] == [["a", "b c"], [], ["d", "e"]]
    (tmp_path / "b.tsv").write_text('tokens\ttags\nJo ran\tB-PER O\n["a b", "c"]\t["O", "O"]\n')
    assert train(tmp_path / "b.tsv", TAGS) == [
        {"tokens": ["Jo", "ran"], "tags": ["B-PER", "O"]},
        {"tokens": ["a b", "c"], "tags": ["O", "O"]},
    ]
    (tmp_path / "c.csv").write_text('text,text_pair,label\na,,x\nb,"c",y\n')
    assert train(tmp_path / "c.csv", CLASSES) == [
        {"text": "a", "label": "x"},
        {"text": "b", "text_pair": "c", "label": "y"},
    ]


@pytest.mark.parametrize("name", ["x.conll", "x.txt", "x.tsv"])
def test_conll_has_a_word_and_its_tag_a_line(tmp_path: Path, name: str) -> None:
    gap = "\t" if name.endswith("tsv") else "  "
    lines = [
        "-DOCSTART- -X- O",
        "",
        "# id 7 domain=train",
        f"Jo{gap}NNP{gap}B-PER",
        f"ran{gap}VBD{gap}O",
        "",
        "",
        f"#{gap}NN{gap}O",
    ]
    (tmp_path / name).write_text("\n".join(lines))
    assert train(tmp_path / name, TAGS) == [{"tokens": ["Jo", "ran"], "tags": ["B-PER", "O"]}, {"tokens": ["#"], "tags": ["O"]}]  # fmt: skip


def test_a_tsv_whose_header_names_the_columns_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("words\ttags\na b\tO O\n")
    assert train(tmp_path / "x.tsv", TAGS, tokens="words") == [{"tokens": ["a", "b"], "tags": ["O", "O"]}]


def test_numbered_classes_get_the_names_that_the_file_knows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"names": ["O", "B-PER"], "_type": "ClassLabel"}
    features = {"tags": {"feature": kinds, "_type": "Sequence"}, "tokens": {"feature": {"_type": "Value"}}}
    table = pa.table({"tokens": [["Jo", "ran"]], "tags": pa.array([[1, 0]], pa.list_(pa.int64()))})
    named = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(named, tmp_path / "x.parquet")
    assert train(tmp_path / "x.parquet", TAGS) == [{"tokens": ["Jo", "ran"], "tags": ["B-PER", "O"]}]
    pq.write_table(table, tmp_path / "y.parquet")
    with pytest.raises(InputError, match=r"row 1 has a tag 1 in 'tags' that is no name such as 'O' or 'B-PER': 1"):
        train(tmp_path / "y.parquet", TAGS)
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "z.parquet")
    assert [e["label"] for e in train(tmp_path / "z.parquet", CLASSES)] == ["0", "1"]


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "x.jsonl", {"review": "good", "text": "other", "stars": 5}, {"review": "bad", "stars": 1})
    found = train(file, CLASSES, text="review", label="stars")
    assert found == [{"text": "good", "label": "5"}, {"text": "bad", "label": "1"}]
    file = jsonl(tmp_path / "y.jsonl", {"prompt": "q", "completion": "a"})
    assert train(file, CHAT, input="prompt", target="completion") == [{"input": "q", "target": "a"}]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": [{**ASK, "name": "x"}, ANSWER], "id": 7}, {"messages": [ASK, ANSWER]}),
        ({"input": "q", "target": "a"}, {"input": "q", "target": "a"}),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            {"messages": [ASK, ANSWER]},
        ),
        ({"conversations": [ASK, ANSWER]}, {"messages": [ASK, ANSWER]}),
        ({"instruction": "do", "input": "this", "output": "a"}, {"input": "do\n\nthis", "target": "a"}),
        ({"instruction": "do", "input": "", "output": "a"}, {"input": "do", "target": "a"}),
        ({"instruction": "do", "output": "a"}, {"input": "do", "target": "a"}),
    ],
)
def test_conversations_of_other_shapes_are_recognised(
    tmp_path: Path, record: dict[str, Any], expected: dict[str, Any]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert train(jsonl(tmp_path / "x.jsonl", record), CHAT) == [expected]
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "x.parquet")
    assert train(tmp_path / "x.parquet", CHAT) == [expected]
