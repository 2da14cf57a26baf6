"""The generate stage with a tiny teacher in Transformers: what it leaves, what it refuses, how it goes on, what it is worth."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta import artifact, plan
from manta import recipe as recipes
from manta.data.shards import load_index, read_rows, read_table
from manta.errors import InputError, RecipeError, StageFailed
from manta.generate import keeping, run, writing
from manta.generate.prompts import answered
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.tasks import examples
from tests.generate.conftest import NAMES, Make, recipe_of, talk
from tests.tasks import paired
from tests.train import school

DRAWN = {"temperature": 1.0, "prompt_tokens": 8}


class TestRows:
    def test_rows_are_continued(self, place: Path, make: Make, parts: list[int]) -> None:
        made = make("written", generate=DRAWN, data={"shards": str(place / "shards"), "train_rows": 40})
        index, old = load_index(made.folder), load_index(str(place / "shards"))
        rows = np.concatenate([read_rows(made.folder, shard.path) for shard in index.splits["train"]])
        given = {tuple(row[:8]) for row in read_rows(Folder(place / "many"), "train/0.parquet")}
        whole = [row for row in rows.tolist() if tuple(row[:8]) in given]
        assert len(whole) >= 30, "most continuations fill a row, behind the beginning that was given"
        assert index.seq_len == old.seq_len and index.rows("validation") == old.rows("validation")
        assert (made.folder / "tokenizer").exists("tokenizer.json")
        figures = made.metrics
        assert figures["questions"] == 40 == figures["answers"] + sum(figures["left_out"].values())
        assert figures["train_rows"] == len(rows) and figures["generated_tokens"] > 40 * 10
        assert parts == [0]
        assert not made.folder.exists(writing.FOLDER)

    def test_a_student_of_them_is_nearer_to_the_teacher(self, place: Path, make: Make, parts: list[int]) -> None:
        """Of the same size and steps, on the same 64 beginnings: their own text against what the teacher makes of them."""
        made = make("written", generate=DRAWN | {"samples": 8})
        found = school.llama(place / "taught", Path(made.folder.url), 2, seed=2, steps=150)
        other = school.llama(place / "untaught", place / "shards", 2, seed=2, steps=150)
        near, far = distance(place, found), distance(place, other)
        print(f"KL to the teacher: {near:.3f} taught by its text, {far:.3f} by the rows alone")
        assert near < 0.75 * far

    def test_the_same_rows_in_another_order_of_work(self, place: Path, make: Make, parts: list[int]) -> None:
        one, two = make("one", generate=DRAWN), make("two", generate=DRAWN)
        assert artifact.content_hash(one.folder) == artifact.content_hash(two.folder)
        assert artifact.content_hash(make("other", generate=DRAWN, seed=1).folder) != artifact.content_hash(one.folder)

    def test_what_was_written_is_not_asked_again(
        self, make: Make, parts: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writing, "PART", 20)
        whole = make("whole", generate=DRAWN)
        parts.clear()
        part = writing.Teacher.part

        def dies(self: writing.Teacher, number: int, some: Any) -> int:
            if number == 2:
                raise KeyboardInterrupt
            return part(self, number, some)

        monkeypatch.setattr(writing.Teacher, "part", dies)
        with pytest.raises(KeyboardInterrupt):
            make("broken", generate=DRAWN)
        monkeypatch.setattr(writing.Teacher, "part", part)
        parts.clear()
        again = make("broken", generate=DRAWN)
        assert parts == [2, 3]
        assert artifact.content_hash(again.folder) == artifact.content_hash(whole.folder)


def distance(place: Path, student: Path) -> float:
    """Mean KL(teacher || student) of a token's probabilities on the held-out rows, in nats."""
    from manta.models.load import load

    rows = torch.tensor(read_rows(Folder(place / "shards"), "validation/0.parquet")).long()
    with torch.no_grad():
        p, q = (load(folder).eval()(rows).logits.log_softmax(-1) for folder in (place / "teacher", student))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Questions, half of them unanswered, and a longer conversation."""
    lines: list[dict[str, Any]] = [
        {"input": f"{number}?"} | ({"target": "old"} if number % 2 else {}) for number in range(8)
    ]
    lines.append({"messages": [*talk("1?", "one."), {"role": "user", "content": "2?"}]})
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


class TestQuestions:
    def test_answers_are_what_finetune_reads(
        self, make: Make, parts: list[int], questions: Path, speaker: Path
    ) -> None:
        """The teacher's own, or the old ones of what is held out; an answer that is cut off or comes twice is not learnt."""
        made = make(
            "answers",
            model={"source": str(speaker)},
            data={"examples": str(questions), "validation_fraction": 0.4},
            task={"name": "chat", "max_tokens": 6},  # one too few for three., seven.
            generate={"temperature": 0.01, "samples": 2},
        )
        figures, loaded = made.metrics, read(made.folder)
        said = [[turn["content"] for turn in each["messages"]] for each in loaded.train]
        assert figures["train_examples"] == len(said) == len({tuple(turns[:-1]) for turns in said}) > 2
        for first, *others in said:
            assert others == [NAMES[int(first[0])]] or (first, others[:-1]) == ("1?", ["one.", "2?"])
        held_out = [[turn["content"] for turn in each["messages"]] for each in loaded.validation]
        assert figures["validation_examples"] == len(held_out) > 0
        for question, answer in held_out:
            assert answer == ("old" if int(question[0]) % 2 else NAMES[int(question[0])])
        dropped = read_table(made.folder, keeping.DROPPED).to_pylist()
        assert Counter(row["reason"] for row in dropped) == Counter(figures["left_out"])
        assert figures["left_out"]["repeated"] >= len(said), "a temperature this low says the same twice"

    def test_a_teacher_that_never_ends_is_told(
        self, make: Make, parts: list[int], questions: Path, speaker: Path
    ) -> None:
        with pytest.raises(StageFailed, match=r"none of the teacher's .* \(\d+ truncated\).*dropped/answers"):
            make(
                "none",
                model={"source": str(speaker)},
                data={"examples": str(questions)},
                task={"name": "chat", "max_tokens": 2},
            )

    def test_an_encoder_decoder_answers(self, place: Path, make: Make, parts: list[int], tmp_path: Path) -> None:
        teacher = paired.t5(tmp_path / "t5")
        file = tmp_path / "pairs.jsonl"
        file.write_text("".join(json.dumps({"input": f"a text {number}"}) + "\n" for number in range(20)))
        task = {"name": "summarisation", "max_target_tokens": 4, "beams": 2}
        data = {"examples": str(file), "validation_fraction": 0.2}
        model = {"source": str(teacher)}
        with pytest.raises(InputError, match=r"set generate\.engine=transformers"):
            make("vllm", model=model, data=data, task=task, generate={"engine": "vllm"})
        with pytest.raises(InputError, match=r"set generate\.temperature=0"):
            make("drawn", model=model, data=data, task=task, generate={"temperature": 1.0})
        with pytest.raises(StageFailed, match="none of the teacher's"):  # it has learnt nothing, and never ends
            make("answers", model=model, data=data, task=task)
        assert parts == [0]


def read(folder: Folder) -> examples.Loaded:
    raw = {
        "kind": "finetune", "name": "student", "model": {"source": "m"}, "data": {"examples": "./x"},
        "task": {"name": "chat"}, "batch": {"samples": 1}, "stop": {"steps": 1},
    }  # fmt: skip
    recipe = recipes.validate(raw)
    assert isinstance(recipe, FinetuneRecipe)
    inputs = {"data.examples": artifact.Resolved("data.examples", "x", "generate", folder.url, "f", "c")}
    return examples.load(inputs, recipe.data, recipe.task)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"task": {"name": "chat"}}, "set both, or neither"),
        ({"data": {}}, "set exactly one of data.examples"),
        ({"generate": {"samples": 2}}, "set temperature above 0"),
        ({"data": {"examples": "./x"}, "task": {"name": "chat"}, "generate": {"prompt_tokens": 4}}, "leave it out"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(place: Path, given: dict[str, Any], remedy: str) -> None:
    with pytest.raises(RecipeError, match=remedy):
        recipe_of(place, "/x", **given)


def test_workers_need_a_cpu_each(place: Path) -> None:
    [problem] = run.problems(recipe_of(place, "/x", resources={"workers": 3, "cpus": 2}))
    assert "resources.cpus=3" in str(problem)


def test_rows_that_a_teacher_cannot_continue_are_refused(place: Path, tmp_path: Path) -> None:
    def check(**given: Any) -> None:
        recipe = recipe_of(place, "/x", **given)
        run.check(recipe, artifact.resolve_inputs(recipe))

    check(generate=DRAWN)
    with pytest.raises(InputError, match="prompt_tokens = 32 leaves nothing to write of rows of 32 tokens"):
        check(generate={"prompt_tokens": school.SEQ})
    other = tmp_path / "teacher"
    shutil.copytree(place / "teacher", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}))
    with pytest.raises(InputError, match=r"prepare rows with data\.seq_len=16"):
        check(model={"source": str(other)}, generate=DRAWN)


def test_unanswered() -> None:
    assert answered({"input": "a", "target": "b"}) and not answered({"input": "a"})
    assert not answered({"messages": [{"role": "user", "content": "a"}]})


def test_the_plan_knows_the_teacher(place: Path) -> None:
    found = plan.plan(recipe_of(place, "/x"))
    assert found["parameters"] > 0 and found["memory_bytes"] > 4 * found["parameters"]
