"""A recipe from a model and a file: what the settings follow from, what is refused, and that nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import cli, recipe
from manta.errors import InputError, RecipeError
from manta.quick import choices, columns, facts, form, names, yaml_text
from manta.storage import Folder
from manta.tasks import TASKS
from tests.tasks import labelled, paired

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("task.source_language=English", "task.target_language=German")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled.bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(file: Path, examples: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return file.name


def words(model: Path, data: str, *overrides: str, **more: str) -> form.Words:
    return form.Words(more.pop("command", "finetune"), str(model), data, overrides=overrides, **more)


# --- names and columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "name"),
    [("ner", "tagging"), ("Sentiment", "classification"), ("text_classification", "classification"), ("sft", "chat"),
     ("summarization", "summarisation"), ("dpo", "preference"), ("embed", "embedding"), ("tagging", "tagging")],
)  # fmt: skip
def test_tasks_have_the_names_that_people_use(word: str, name: str) -> None:
    assert names.task_of(word) == {"name": name}


def test_every_alias_means_one_task_and_is_no_other_s_name() -> None:
    said = [alias for aliases in names.ALIASES.values() for alias in aliases]
    assert len(said) == len({*said})
    assert not {*said} & {*names.ALIASES, *TASKS}


def test_unknown_tasks_get_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"--task 'clasification': choose one of .*did you mean 'classification'"):
        names.task_of("clasification")
    assert names.task_of("multi-label") == {"name": "classification", "several": True}


@pytest.mark.parametrize(
    ("record", "task"),
    [
        ({"text": "a", "label": "b"}, {"name": "classification"}),
        ({"text": "a", "labels": ["b"]}, {"name": "classification", "several": True}),
        ({"text": "a", "text_pair": "c", "label": "b"}, {"name": "classification"}),
        ({"tokens": ["a"], "tags": ["O"]}, {"name": "tagging"}),
        ({"messages": []}, {"name": "chat"}),
        ({"instruction": "a", "input": "", "output": "b"}, {"name": "chat"}),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"name": "preference"}),
        ({"text": "a", "positive": "b"}, {"name": "embedding"}),
    ],
)
def test_columns_tell_the_task(record: dict[str, Any], task: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    lines(file, [record])
    assert columns.task_of(Folder(str(file)), {})[0] == task


def test_columns_of_every_format_tell_the_task(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"], "label": ["b"], "more": [1]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    (tmp_path / "a.tsv").write_text("label\ttext\nb\ta\n")
    (tmp_path / "a.conll").write_text("Jo B-PER\nsleeps O\n")
    (tmp_path / "words.tsv").write_text("Jo\tB-PER\nsleeps\tO\n")
    wanted = {"a.parquet": "classification", "a.csv": "classification", "a.tsv": "classification", "a.conll": "tagging", "words.tsv": "tagging"}  # fmt: skip
    assert {name: columns.task_of(Folder(str(tmp_path / name)), {})[0]["name"] for name in wanted} == wanted


def test_columns_that_tell_nothing_are_told(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    lines(file, [{"input": "a", "target": "b"}])
    with pytest.raises(InputError, match=r"several tasks learn: add --task .*chat"):
        columns.task_of(Folder(str(file)), {})
    lines(file, [{"sentence": "a", "label": "b"}])
    with pytest.raises(InputError, match=r"columns label, sentence, which tell no task: .*data.columns.text=COLUMN"):
        columns.task_of(Folder(str(file)), {})
    assert columns.task_of(Folder(str(file)), {"text": "sentence"})[0] == {"name": "classification"}
    file.write_text("{broken\n")
    with pytest.raises(InputError, match="line 1 is not JSON"):
        columns.task_of(Folder(str(file)), {})


# --- choices ---------------------------------------------------------------------------------------------------------


def known(**more: Any) -> facts.Facts:
    model = facts.Model("m", more.pop("kind", "encoder"), more.pop("parameters", 110_000_000), 512, Folder("."))
    machine = facts.Machine(4, more.pop("memory", 16 << 30), more.pop("gpus", 0), more.pop("bf16", False))
    usual = {
        "task": {"name": "classification"},
        "train": 900,
        "validation": 100,
        "fraction": 0.1,
        "lengths": {"max_tokens": (41, 90)},
    }
    return facts.Facts(**{**usual, **more}, model=model, machine=machine)


def decided(found: facts.Facts, given: dict[str, Any] | None = None) -> dict[str, Any]:
    return {choice.path: choice.value for choice in choices.finetuning(found, given or {})}


def test_choices_follow_from_the_facts() -> None:
    made = decided(known())
    assert made["task.max_tokens"] == 48  # 41, rounded up to eights
    assert (made["adapt.method"], made["optimizer.lr"], made["optimizer.precision"]) == ("full", 3e-5, "fp32")
    assert (made["batch.samples"], made["stop.epochs"]) == (16, 5.0)
    assert (made["early_stop.figure"], made["early_stop.mode"]) == ("score", "max")
    assert made["early_stop.patience"] == 5  # half of the 5 x 56 / 28 validations
    assert made["evaluate.every_steps"] == 28  # half of an epoch of 900 // 16 steps
    assert (made["resources.workers"], made["resources.cpus_per_worker"], made["resources.micro_batch"]) == (1, 4, 16)
    assert "resources.gpus_per_worker" not in made
    big = decided(known(kind="decoder", parameters=7_000_000_000, gpus=1, bf16=True, task={"name": "chat"}))
    assert (big["adapt.method"], big["optimizer.lr"], big["optimizer.weight_decay"]) == ("lora", 2e-4, 0.0)
    assert (big["optimizer.precision"], big["resources.gpus_per_worker"]) == ("bf16", 1)
    assert (big["early_stop.figure"], big["early_stop.mode"]) == ("loss", "min")
    assert decided(known(parameters=2_000_000_000))["adapt.method"] == "lora", "32 GB do not fit into 16"
    assert decided(known(task={"name": "preference"}))["optimizer.lr"] == pytest.approx(1.5e-6)


def test_lengths_are_cut_where_the_model_or_the_time_ends() -> None:
    assert decided(known(lengths={"max_tokens": (3, 5)}))["task.max_tokens"] == 16
    assert decided(known(lengths={"max_tokens": (600, 5000)}))["task.max_tokens"] == 512
    free = choices.finetuning(known(lengths={"max_tokens": (41, 90)}), {})
    assert (
        next(c.reason for c in free if c.path == "task.max_tokens")
        == "99% of the examples have at most 41 tokens, the longest 90"
    )


def test_what_the_user_wrote_is_not_decided_again_and_the_rest_follows_it() -> None:
    made = decided(
        known(), {"adapt": {"method": "lora"}, "batch": {"tokens": 4096}, "early_stop": None, "stop": {"steps": 7}}
    )
    assert "adapt.method" not in made
    assert made["optimizer.lr"] == 1e-3, "the rate is that of the user's method"
    assert not [path for path in made if path.startswith(("early_stop", "batch", "stop"))]
    assert decided(known(), {"batch": {"samples": 12}})["resources.micro_batch"] == 4, "it divides the user's batch"
    assert decided(known(), {"resources": {"workers": 2}})["resources.micro_batch"] == 8
    assert "resources.zero_stage" not in decided(known(), {"resources": {"workers": 2}})


def test_the_smallest_value_that_99_of_100_do_not_exceed() -> None:
    assert facts._percentile([*range(1, 100), 5000]) == (99, 5000)
    assert facts._percentile([7]) == (7, 7)


# --- the recipe ------------------------------------------------------------------------------------------------------


def test_the_recipe_is_valid_says_why_and_is_read_again(bert: Path, here: Path) -> None:
    data = lines(here / "films.jsonl", labelled.SENTIMENTS)
    made = form.make(words(bert, data, "optimizer.lr=1e-5", task="sentiment"))
    assert not made.file.exists(), "nothing is written before it is asked for"
    made.write()
    again = recipe.load("films-classification.yaml", kind="finetune")
    assert again == made.recipe
    assert made.recipe.optimizer.lr == 1e-5  # type: ignore[union-attr]
    assert made.recipe.task.max_tokens == 16  # type: ignore[union-attr]
    assert made.text.startswith("# Written by `manta finetune --model")
    assert "  method: full # an encoder of" in made.text
    assert "lr: 1.0e-05\n" in made.text, "no reason stands beside what the user wrote"
    assert made.told[0] == "task classification (which sentiment means)"
    assert made.again == "manta finetune ./films-classification.yaml"


def test_the_task_is_told_by_the_columns_and_lengths_by_the_tokenizer(bert: Path, here: Path) -> None:
    long = [{**example, "tokens": example["tokens"] * 6, "tags": example["tags"] * 6} for example in labelled.ENTITIES]
    made = form.make(words(bert, lines(here / "people.jsonl", long)))
    assert made.told[0] == "task tagging (by the columns tags and tokens)"
    assert made.recipe.task.max_tokens == 40  # type: ignore[union-attr] # 30 words and the room for special tokens


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_lengths_of_translations_follow_from_both_sides_and_from_what_stands_before_the_input(
    family: str, here: Path
) -> None:
    from transformers import AutoTokenizer

    model = getattr(paired, family)(here / family)
    count = AutoTokenizer.from_pretrained(model).backend_tokenizer
    pairs = [{**pair, "target": f"{pair['target']} und {pair['target']}"} for pair in paired.PAIRS]
    before = paired.SPOKEN if family == "t5" else ""
    # The longest example has room for eight tokens more, and lengths are rounded up to eights.
    wanted = [
        -(-(max(len(count.encode(text, add_special_tokens=False).ids) for text in texts) + 8) // 8) * 8
        for texts in ([before + pair["input"] for pair in pairs], [pair["target"] for pair in pairs])
    ]
    made = form.make(words(model, lines(here / "pairs.jsonl", pairs), *LANGUAGES, task="translation"))
    found = made.recipe.task  # type: ignore[union-attr]
    assert [found.max_input_tokens, found.max_target_tokens] == wanted  # type: ignore[union-attr]
    assert 256 not in wanted, "the default of the schema"
    assert {"task.max_input_tokens", "task.max_target_tokens"} <= {choice.path for choice in made.choices}
    scored = form.make(words(model, "pairs.jsonl", *(f"evaluate.{each}" for each in LANGUAGES), command="evaluate", task="translation"))  # fmt: skip
    assert scored.recipe.evaluate.task.max_input_tokens == wanted[0]  # type: ignore[union-attr]


def test_what_a_chat_template_says_by_itself_is_room_that_conversations_need(here: Path) -> None:
    """A template that begins with a system prompt of its own: no conversation is cut for it."""
    model = paired.llama(here / "llama")
    talks = [{"input": pair["input"], "target": pair["target"]} for pair in paired.PAIRS]
    data = lines(here / "talks.jsonl", talks)
    short = form.make(words(model, data, task="chat")).recipe.task  # type: ignore[union-attr]
    template = model / "chat_template.jinja"
    template.write_text("{{ 'The dog sleeps. ' * 8 }}" + template.read_text())
    made = form.make(words(model, data, task="chat")).recipe.task  # type: ignore[union-attr]
    from manta.tasks import chat
    from manta.tasks.labels import tokenizer

    assert short.max_tokens < made.max_tokens < 128  # type: ignore[union-attr]
    assert not any(chat.encode(talk, tokenizer(model), made).truncated for talk in talks)  # type: ignore[arg-type]


def test_an_answering_task_s_rows_are_as_long_as_its_windows() -> None:
    model = known(lengths={}, task={"name": "answering"})
    found = [choice for choice in choices.finetuning(model, {}) if choice.path == "resources.micro_batch"]
    assert "rows of at most 384 tokens" in found[0].reason


def test_another_recipe_is_never_overwritten(bert: Path, here: Path) -> None:
    data = lines(here / "films.jsonl", labelled.SENTIMENTS)
    form.make(words(bert, data)).write()
    first = Path("films-classification.yaml").read_text()
    assert form.make(words(bert, data)).text == first, "the same words mean the same file"
    other = form.make(words(bert, data, "seed=1"))
    other.write()
    assert (other.file.name, other.recipe.name) == ("films-classification-2.yaml", "films-classification-2")
    assert Path("films-classification.yaml").read_text() == first
    with pytest.raises(InputError, match=r"\./films-classification.yaml is another recipe"):
        form.make(words(bert, data, "seed=2", "name=films-classification"))
    replaced = form.make(words(bert, data, "seed=2"), replace=True)
    assert replaced.file.name == "films-classification.yaml"
    Path("films-classification.yaml").write_text("kind: finetune # by hand\n")
    assert form.make(words(bert, data, "seed=2"), replace=True).file.name == "films-classification-2.yaml"


def test_a_run_of_that_name_is_left_alone(bert: Path, here: Path) -> None:
    (here / "runs/films-classification").mkdir(parents=True)
    (here / "runs/films-classification/manifest.json").write_text("{}")
    assert (
        form.make(words(bert, lines(here / "films.jsonl", labelled.SENTIMENTS))).recipe.name == "films-classification-2"
    )


def test_an_evaluation_scores_the_whole_file(bert: Path, here: Path) -> None:
    made = form.make(words(bert, lines(here / "films.jsonl", labelled.SENTIMENTS), command="evaluate"))
    found = recipe.resolved(made.recipe)
    assert found["data"]["validation_fraction"] == 1.0
    assert (found["evaluate"]["engine"], found["evaluate"]["task_samples"]) == ("transformers", 10)
    assert made.file.name == "films-classification-by-bert.yaml"


def test_a_run_is_scored_as_it_was_taught_on_what_it_has_not_seen(bert: Path, here: Path) -> None:
    import hashlib
    import shutil

    data = lines(here / "films.jsonl", labelled.SENTIMENTS)
    shutil.copytree(bert, here / "runs/mine/model")
    task = {"name": "classification", "max_tokens": 24, "several": False, "class_weights": "none"}
    content = hashlib.sha256((here / data).read_bytes()).hexdigest()

    def finished(**inputs: dict[str, str]) -> None:
        told = {
            "kind": "finetune",
            "name": "mine",
            "recipe": {"task": task, "data": {"validation_fraction": 0.4}},
            "inputs": inputs,
        }
        (here / "runs/mine/manifest.json").write_text(json.dumps(told))

    finished(**{"data.examples": {"content": content}})
    (here / "runs/mine/COMPLETE").write_text("")
    made = form.make(words(Path("runs/mine"), data, command="evaluate"))
    found = recipe.resolved(made.recipe)
    assert (found["data"]["validation_fraction"], found["evaluate"]["task"]["max_tokens"]) == (0.4, 24)
    assert made.told[1:] == ("4 examples",)
    finished(**{"data.examples": {"content": "another file"}})
    assert (
        recipe.resolved(form.make(words(Path("runs/mine"), data, command="evaluate")).recipe)["data"][
            "validation_fraction"
        ]
        == 1.0
    )
    finished(**{"data.examples": {"content": content}, "data.validation": {"content": "b"}})
    assert "what it remembers" in form.make(words(Path("runs/mine"), data, command="evaluate")).told[-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["optimiser.lr=1"], "did you mean 'optimizer'"), (["stop.epoch=1"], "did you mean 'epochs'"), (["optimizer.lr=fast"], "optimizer.lr = 'fast'")],
)  # fmt: skip
def test_wrong_overrides_are_refused(overrides: list[str], message: str, bert: Path, here: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        form.make(words(bert, lines(here / "films.jsonl", labelled.SENTIMENTS), *overrides))


def test_wrong_models_are_refused(bert: Path, here: Path) -> None:
    data = lines(here / "films.jsonl", labelled.SENTIMENTS)
    with pytest.raises(InputError, match=r"--model \./nowhere: .* does not exist"):
        form.make(words(Path("nowhere"), data))
    talk = lines(here / "talk.jsonl", [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]} for n in range(20)])  # fmt: skip
    with pytest.raises(InputError, match="is taught to a decoder"):
        form.make(words(bert, talk))


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_shows_its_choices_and_starts_nothing_in_a_dry_run(bert: Path, here: Path, capsys: Any) -> None:
    data = lines(here / "films.jsonl", labelled.SENTIMENTS)
    assert cli.main(["finetune", "--model", str(bert), "seed=3", "--data", data, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "task classification (by the columns label and text)\n8 training and 2 validation examples\n" in said
    assert "  optimizer.lr=0.0003 " in said
    assert "# finetune films-classification: the resolved recipe" in said
    assert [path.name for path in here.iterdir()] == ["films.jsonl"]
    assert cli.main(["evaluate", "--model", str(bert), "--data", data, "--dry-run", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["choices", "recipe", "plan"]
    assert events[0]["command"] == "manta evaluate ./films-classification-by-bert.yaml"


def test_bad_files_are_refused_with_their_lines_before_anything_heavy_loads(bert: Path, here: Path) -> None:
    data = lines(
        here / "films.jsonl", [*labelled.SENTIMENTS, {"text": "", "label": "positive"}, {"text": "a", "label": 0.5}]
    )
    code = (
        "import sys; from manta import cli; code = cli.main(sys.argv[1:])\n"
        "print([name for name in ('torch', 'ray', 'transformers') if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "finetune", "--model", str(bert), "--data", str(here / data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "line 11 has an empty 'text'" in done.stderr
    assert "line 12 has a 'label' that is a number and not text: 0.5" in done.stderr
    assert done.stderr.strip().endswith("[]")
    assert not list(here.glob("*.yaml"))


@pytest.mark.parametrize(
    "arguments",
    [["finetune"], ["finetune", "--model", "m"], ["finetune", "--data", "d"], ["finetune", "x.yaml", "--model", "m", "--data", "d"],
     ["evaluate", "--model", "m", "--data", "d", "--validation", "v"], ["pretrain", "--model", "m"]],
)  # fmt: skip
def test_half_of_both_forms_is_refused(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(arguments)
    assert caught.value.code == 2


def test_overrides_may_stand_first() -> None:
    args = cli.parse(["finetune", "a=1", "--model", "m", "--data", "d", "b=2"])
    assert (args.recipe, args.overrides) == (None, ["a=1", "b=2"])


def test_yaml_of_any_value_reads_back() -> None:
    raw = {
        "a": {"b": 1e-05, "c": None, "d": [1, "x: y"], "e": {}},
        "f": "true",
        "g": "two\nlines",
        "h": "# no comment",
        "i": 2.0,
    }
    text = yaml_text.dump(raw, {"a.b": "small", "g": "long"})
    assert recipe.parse_yaml(text) == raw
    assert yaml.safe_load(text)["f"] == "true"
    assert "  b: 1.0e-05 # small\n" in text
