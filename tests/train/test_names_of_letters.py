"""Real data: a T5 from scratch learns the names that Unicode gives to letters with marks, from the letter and its marks."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.data.stream import read_steps
from manta.evaluate import asking as evaluation
from manta.objectives import TABLE, loss_of, scored_of
from manta.progress import Progress
from manta.schema import EvaluateRecipe, FinetuneRecipe
from manta.storage import Folder
from manta.tasks import TASKS
from manta.tasks.examples import splitting
from manta.train import run, validation
from manta.train.engine import Engine
from manta.train.export import export
from manta.train.job import model_of
from manta.train.schedule import learning_rate
from tests.train.under_deepspeed import lone_process

pytestmark = pytest.mark.integration
BLOCKS = (range(0xC0, 0x250), range(0x370, 0x530), range(0x1E00, 0x2000))  # Latin, Greek, Cyrillic
STEPS = 300
TASK = {
    "name": "translation", "source_language": "Unicode", "target_language": "English", "prefix": "", "max_input_tokens": 24,
    "max_target_tokens": 64, "score_rows": 1000,
}  # fmt: skip


def letters() -> list[dict[str, str]]:
    """ "e ́" -> "latin small letter e with acute": every letter of these blocks that is made of others."""
    found = []
    for letter in map(chr, (number for block in BLOCKS for number in block)):
        parts = unicodedata.normalize("NFD", letter)
        if len(parts) > 1 and unicodedata.category(letter).startswith("L"):
            found.append({"input": " ".join(parts), "target": unicodedata.name(letter).lower()})
    return found


def model(folder: Path, examples: list[dict[str, str]]) -> Path:
    """A new T5 and a tokenizer of the training examples."""
    import torch
    import transformers

    from manta.data import tokenizer
    from manta.sections.prepare import Tokenizer

    settings = Tokenizer.model_validate({"type": "unigram", "vocab_size": 700, "sentinels": 1})
    folder.mkdir()
    tokenizer.make(settings, None, (text for example in examples for text in example.values()), folder)
    found = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(found), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=found.pad_token_id, pad_token_id=found.pad_token_id, eos_token_id=found.eos_token_id,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_letters_are_named_that_were_never_seen(tmp_path: Path) -> None:
    examples = letters()
    held_out = splitting.validating(examples, 0.1)
    train, unseen = ([e for e, held in zip(examples, held_out, strict=True) if held is side] for side in (False, True))
    assert len(train) > 700 and len(unseen) > 60
    source = model(tmp_path / "m", train)
    file = tmp_path / "letters.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    recipe = recipes.validate(
        {
            "kind": "finetune", "name": "t", "output": str(tmp_path), "model": {"source": "./m"}, "task": TASK,
            "data": {"examples": "./x", "validation_fraction": 0.1}, "optimizer": {"lr": 3e-3, "precision": "fp32"},
            "schedule": {"name": "linear"}, "batch": {"samples": 32}, "stop": {"steps": STEPS},
            "resources": {"micro_batch": 32},
        }
    )  # fmt: skip
    assert isinstance(recipe, FinetuneRecipe)
    inputs = {
        "model.source": Resolved("model.source", "m", "directory", str(source), "", ""),
        "data.examples": Resolved("data.examples", "x", "file", str(file), "", ""),
    }
    with lone_process(tmp_path):
        job = run.make_job(
            recipe, Draft(Folder(tmp_path / "run"), {}, inputs, resumed=False), None, Progress(quiet=True)
        )
        built = model_of(job, lambda _: None)
        engine = Engine(built, loss_of(job.objective), recipe.optimizer, recipe.resources, job.accumulation)
        for step in range(STEPS):
            found = read_steps(job.feed, np.array([step]), 0, 1)
            batch = {name: found[name][0] for name in job.feed.columns}
            scored = np.atleast_1d(scored_of(job.objective)(batch)).tolist()
            engine.step(batch, scored, learning_rate(step, STEPS, recipe.optimizer.lr, recipe.schedule))
        judge = validation.judge_of(job, 0)
        figures = validation.measure(engine, validation.rows_of(job, 0), TABLE[job.objective.name].parts, judge)
        export(job, engine, built, Folder(tmp_path / "out"))
    # What says the same of every letter, the commonest name, is far below; so is the letter itself.
    names = [example["target"] for example in unseen]
    commonest = max(names, key=[example["target"] for example in train].count)
    score = TASKS["translation"].score
    assert (
        score([commonest] * len(names), names)["score"]
        < 75
        > score([example["input"] for example in unseen], names)["score"]
    )
    assert figures["score_rows"] == len(unseen) and figures["score"] > 88 and figures["bleu"] > 75
    asked = recipes.validate(
        {
            "kind": "evaluate", "name": "e", "model": {"source": "./m"}, "data": {"examples": "./x", "validation_fraction": 0.1},
            "evaluate": {"engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": TASK, "task_samples": 1000},
        }
    )  # fmt: skip
    assert isinstance(asked, EvaluateRecipe)
    tuned = Resolved("model.source", "m", "directory", str(tmp_path / "out/model"), "", "")
    answered = evaluation.measure(asked, tmp_path / "out/model", inputs, lambda _: None, tuned)
    assert answered["references"] == names
    assert score(answered["predictions"], names)["score"] == pytest.approx(figures["score"], abs=0.01)
