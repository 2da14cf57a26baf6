"""Task files of lm-evaluation-harness with data of their own, a recipe that asks them, and a tiny model, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manta import recipe as recipes
from manta.schema import EvaluateRecipe

QUESTIONS = [
    {"question": "Two and two?", "choices": ["four", "five", "a hundred"], "label": 0},
    {"question": "The colour of snow?", "choices": ["black", "white"], "label": 1},
    {"question": "A bird that swims?", "choices": ["penguin", "sparrow", "owl", "kite"], "label": 0},
    {"question": "Bees make...", "choices": ["wine", "honey"], "label": 1},
    {"question": "Days of a week?", "choices": ["seven", "eight"], "label": 0},
    {"question": "Ice is...", "choices": ["hot", "dry", "cold"], "label": 2},
]
SHOTS = [{"question": f"{n} and 1?", "choices": [str(n + 1), "none"], "label": 0} for n in range(5)]
DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: data/questions.jsonl, train: data/shots.jsonl}}\ntest_split: test\n"
CHOICE = """
include: base
task: choice
tag: mine
output_type: multiple_choice
fewshot_split: train
doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TEXT = """
include: base
task: text
tag: mine
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} It is {{choices[label]}}."
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
SAY = """
include: base
task: say
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["s"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""
GROUP = "group: all\ntask: [choice, say]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
ENDING = "include: base\ntask: ending\noutput_type: loglikelihood\ndoc_to_text: '{{question}}'\ndoc_to_target: ' {{choices[0]}}'\nmetric_list: [{metric: perplexity}, {metric: acc}]\n"


def write(folder: Path, **files: str) -> Path:
    """A folder of tasks: `files` by the names of their tasks, and the data that all of them ask."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in (("questions", QUESTIONS), ("shots", SHOTS)):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "base").write_text(DATA)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def recipe_of(model: Path | str, folder: Path | str, tasks: list[str], *overrides: str) -> EvaluateRecipe:
    """An evaluation of tasks alone, by Transformers."""
    raw: dict[str, Any] = {
        "kind": "evaluate",
        "name": "scores",
        "output": str(Path(folder).parent / "runs"),
        "model": {"source": str(model)},
        "data": {},
        "evaluate": {
            "engine": "transformers",
            "dtype": "float32",
            "perplexity_rows": 0,
            "harness": {"folder": str(folder), "tasks": tasks},
        },
    }
    made = recipes.validate(recipes.override(raw, overrides))
    assert isinstance(made, EvaluateRecipe)
    return made
