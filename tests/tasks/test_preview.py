"""What a dry run shows of the examples: fields, tokens with the learnt ones marked, labels; without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import cli
from manta import recipe as recipes
from manta.errors import InputError
from manta.models import presets
from manta.schema import FinetuneRecipe
from manta.sections.model import NewModel
from manta.sections.tasks import ClassificationTask, TaggingTask
from manta.tasks.examples import preview
from manta.tasks.labels import Labels


def raw(file: Path, model: Path, **task: Any) -> dict[str, Any]:
    return {
        "kind": "finetune",
        "name": "t",
        "output": str(file.parent / "runs"),
        "data": {"examples": str(file), "validation_fraction": 0.4},
        "model": {"source": str(model)},
        "task": task or {"name": "chat"},
        "batch": {"samples": 4},
        "stop": {"steps": 1},
    }


def recipe(file: Path, model: Path, **task: Any) -> FinetuneRecipe:
    made = recipes.validate(raw(file, model, **task))
    assert isinstance(made, FinetuneRecipe)
    return made


@pytest.fixture
def model(tokenizer: Any, tmp_path: Path) -> Path:
    """A model's folder as far as a plan and a preview read it."""
    folder = tmp_path / "model"
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(presets.config(NewModel(), len(tokenizer), {})))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"input": f"q{n}", "target": f"yes{n}"}) + "\n" for n in range(9)))
    return file


def test_only_the_answer_is_marked(pairs: Path, tokenizer_folder: Path) -> None:
    said = preview.show(recipe(pairs, tokenizer_folder))
    assert said[0].endswith("validation examples; the first:")
    assert [line for line in said if line.startswith("example")] == ["example 1", "example 2", "example 3"]
    start = said.index("example 1")
    number = json.loads(said[start + 1].partition(": ")[2])[1:]
    assert said[start + 1 : start + 3] == [f'  input: "q{number}"', f'  target: "yes{number}"']
    assert said[start + 3].endswith(f"|«y»|«e»|«s»|«{number}»|«<|end|>»")
    assert said[start + 3].count("«") == 5
    total = int(said[start + 3].split()[0])
    assert said[start + 4] == f"  labels: 5 of {total} tokens are learnt"


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that sets [CLS] and [SEP] around words."""
    from transformers import AutoTokenizer

    from manta.data import tokenizer
    from manta.sections.prepare import Tokenizer

    folder = tmp_path_factory.mktemp("wordpiece")
    settings = Tokenizer.model_validate({"type": "wordpiece", "lowercase": True, "vocab_size": 300})
    tokenizer.make(settings, None, iter(["anna lives in paris"] * 9), folder)
    return AutoTokenizer.from_pretrained(folder)


def test_labels_of_texts_are_named(wordpiece: Any) -> None:
    known = Labels(("no", "yes"), (1, 1), "single_label_classification")
    task = ClassificationTask(name="classification", max_tokens=4)
    said = preview.describe(task, {"text": "Anna lives in", "label": "yes"}, wordpiece, known)
    assert said == ["4 tokens, cut: [CLS]|anna|lives|[SEP]", "labels: yes (of 2)"]
    several = ClassificationTask(name="classification", several=True)
    said = preview.describe(several, {"text": "in Paris", "labels": ["yes", "no"]}, wordpiece, known)
    assert said == ["4 tokens: [CLS]|in|paris|[SEP]", "labels: no, yes (of 2)"]
    assert preview.describe(several, {"text": "in", "labels": []}, wordpiece, known)[1] == "labels: none (of 2)"


def test_tags_stand_at_the_first_piece_of_a_word(wordpiece: Any) -> None:
    known = Labels(("B-PER", "O"), (1, 1))
    example = {"tokens": ["Anna", "annas"], "tags": ["B-PER", "O"]}
    tokens, labels = preview.describe(TaggingTask(name="tagging"), example, wordpiece, known)
    assert tokens == "5 tokens: [CLS]|«anna=B-PER»|«anna=O»|##s|[SEP]"
    assert labels == "labels: 2 of 5 tokens are learnt"


def test_a_long_row_is_shown_around_what_is_learnt(pairs: Path, tokenizer: Any) -> None:
    pairs.write_text("")
    example = {"input": "x" * 100, "target": "y" * 100}
    tokens, count = preview.describe(recipe(pairs, pairs.parent).task, example, tokenizer, None)
    assert tokens.count("«y»") == preview.LEARNT
    assert tokens.count("...") == 2
    assert tokens.endswith("|...")
    assert count.startswith("labels: 101 of ")


def test_what_is_not_there_yet_is_said(pairs: Path, tokenizer_folder: Path) -> None:
    missing = preview.show(recipe(pairs, pairs.parent / "nowhere"))
    assert missing == [f"model.source = '{pairs.parent}/nowhere' is not there yet, so no rows are shown"]
    packaged = preview.show(recipe(pairs, Path("package:some-model")))
    assert "(model.source is no local directory, so their tokens are not shown)" in packaged
    assert packaged[-2:] == [line for line in packaged if line.startswith("  ")][-2:]


def test_bad_examples_and_bad_tokenizers_are_refused(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"model.source: the tokenizer in .*/model cannot be used: "):
        preview.show(recipe(pairs, folder))
    pairs.write_text('{"input": "q"}\n')
    with pytest.raises(InputError, match="chat needs messages, or input and target"):
        preview.show(recipe(pairs, folder))


def test_a_template_that_ends_no_answer_is_told(pairs: Path, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(InputError, match="ends an answer with no special token"):
        preview.show(recipe(pairs, tmp_path / "model"))


def test_a_dry_run_shows_them_and_loads_no_torch(pairs: Path, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "finetune.yaml"
    file.write_text(yaml.safe_dump(raw(pairs, model)))
    code = (
        "import sys; from manta import cli; code = cli.main(sys.argv[1:])\n"
        "print([name for name in ('torch', 'ray', 'transformers') if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "finetune", str(file), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "\nexample 3\n" in done.stdout
    assert "«<|end|>»" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_refuses_a_bad_file(pairs: Path, model: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "finetune.yaml"
    file.write_text(yaml.safe_dump(raw(pairs, model)))
    pairs.write_text(pairs.read_text() + "{broken\n")
    assert cli.main(["finetune", str(file), "--dry-run"]) == 2
    assert "line 10 is not JSON" in capsys.readouterr().err
