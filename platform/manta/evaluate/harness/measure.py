"""One model's answers to lm_eval's tasks, scored by lm_eval, in a process of its own without a network."""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import engines
from manta.evaluate.harness import answers, files
from manta.evaluate.harness.figures import FORMULAS, ROLE
from manta.schema import EvaluateRecipe
from manta.storage import Folder

FILE = "work/harness.json"  # a run that broke off does not repeat it
POSITIONS = 2048  # of a model without a limit, as lm_eval takes it
RESAMPLES = 1000  # where lm_eval finds a standard error by the bootstrap
# Read when the libraries are imported: no hub, no bars, no further processes.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1", "DISABLE_MULTIPROC": "1"}


def measure(
    recipe: EvaluateRecipe, source: Resolved, inputs: dict[str, Resolved], folder: Folder, mailbox: Any
) -> None:
    """Ask the model and write what was found to FILE in the folder: see `ask`."""
    from manta.models.load import model_folder

    def note(text: str) -> None:
        mailbox.put.remote({"note": f"harness: {text}"})

    with model_folder(source) as model, Folder(inputs[ROLE].path).local() as tasks:
        found = ask(recipe, model, tasks, note)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
    folder.write_text(FILE, json.dumps(found, ensure_ascii=False))


def ask(recipe: EvaluateRecipe, model: Path, tasks: Path, note: Any) -> dict[str, Any]:
    """{version: of lm_eval, cut: requests that lost tokens, metrics: of tasks and groups, samples: of questions}."""
    settings = recipe.evaluate.harness
    assert settings is not None
    checked = files.check(tasks, settings.tasks, settings.allow_python)
    # Files that tasks name are read from the folder of tasks, as if lm_eval had been started there.
    with _here(), contextlib.chdir(tasks), _templates(settings.allow_python):
        from importlib.metadata import version

        from lm_eval import evaluator

        _refuse_metrics(checked)
        loaded = _load(recipe, tasks)
        note(
            f"{len(loaded['tasks'])} tasks, {sum(len(task.eval_docs) for task in loaded['tasks'].values()):,} questions"
        )
        asked = _model(recipe, model)
        _seed(recipe.seed)
        with contextlib.redirect_stdout(io.StringIO()):  # lm_eval tells of its bootstrap there
            results = evaluator.evaluate(
                lm=asked,
                task_dict=loaded,
                limit=settings.limit,
                bootstrap_iters=RESAMPLES,
                apply_chat_template=settings.chat_template,
                fewshot_as_multiturn=settings.chat_template,
            )
        metrics = _metrics(results, loaded)
        samples = [_sample(name, row) for name, rows in results["samples"].items() for row in rows]
    note(
        f"{len(metrics)} figures"
        + (f", {asked.cut} requests were too long and lost their beginning" if asked.cut else "")
    )
    return {"version": version("lm_eval"), "cut": asked.cut, "metrics": metrics, "samples": samples}


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """Let `datasets` keep its tables in a folder that goes away with them."""
    import datasets

    kept = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory(prefix="manta-harness-", ignore_cleanup_errors=True) as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder)
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = kept


@contextlib.contextmanager
def _templates(allow_python: bool) -> Iterator[None]:
    """Let the templates of task files reach the question's fields only: lm_eval's own could run any Python."""
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    kept = utils.env
    if not allow_python:
        utils.env = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
        utils.env.filters["regex_replace"] = utils.regex_replace
    try:
        yield
    finally:
        utils.env = kept


def _refuse_metrics(checked: Mapping[str, files.Config]) -> None:
    """Raise InputError for a metric that lm_eval would look for elsewhere: on a hub, or as a script."""
    import lm_eval.api.metrics  # noqa: F401  (it fills the registry)
    from lm_eval.api.registry import METRIC_REGISTRY

    known = set(METRIC_REGISTRY)
    for where, config in checked.items():
        for part in files.mappings(config):
            listed = [] if part.get("process_results") is not None else part.get("metric_list") or []
            for item in listed:
                name = item.get("metric") if isinstance(item, Mapping) else item
                if not isinstance(name, files.Code) and name not in known:
                    raise InputError(
                        f"evaluate.harness: {where} wants the metric {name!r}, which lm_eval does not have: known are "
                        f"{', '.join(sorted(known))}"
                    )


def _load(recipe: EvaluateRecipe, folder: Path) -> dict[str, Any]:
    """The tasks with their data. Raises InputError for what lm_eval or `datasets` find wrong with them."""
    from jinja2 import TemplateError
    from lm_eval.tasks import TaskManager

    settings = recipe.evaluate.harness
    assert settings is not None
    try:
        loaded: dict[str, Any] = TaskManager(include_path=str(folder), include_defaults=False).load(settings.tasks)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OSError, TemplateError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"evaluate.harness.tasks = {settings.tasks}: lm_eval cannot make them of {folder}: {type(error).__name__}: {reason}: "
            "correct the task's file or its data"
        ) from error
    for name, task in loaded["tasks"].items():
        own = task.get_config("num_fewshot")
        if settings.fewshot is not None and own == 0 != settings.fewshot:
            raise InputError(
                f"evaluate.harness.fewshot = {settings.fewshot}: the task {name!r} says num_fewshot: 0, which means none at all: "
                "set evaluate.harness.fewshot=null, or remove that line"
            )
        shots = settings.fewshot if settings.fewshot is not None else own or 0
        if shots and not hasattr(task, "sampler"):
            raise InputError(
                f"evaluate.harness: the task {name!r} has nothing to take {shots} examples from: name a fewshot_split in its file"
            )
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=settings.fewshot_seed)
    return loaded


def _model(recipe: EvaluateRecipe, model: Path) -> Any:
    from transformers import AutoTokenizer

    settings = recipe.evaluate.harness
    assert settings is not None
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"evaluate.harness: the tokenizer of {model} names no token that ends a text: set its eos_token"
        )
    if settings.chat_template and not tokenizer.chat_template:
        raise InputError(
            f"evaluate.harness.chat_template = true: the tokenizer of {model} has no chat template: set it to false"
        )
    rows = rows_of(recipe, model)
    judge = engines.judge(recipe.evaluate.engine, model, recipe.evaluate.dtype, rows)
    return answers.model(judge, tokenizer, rows - 1)


def rows_of(recipe: EvaluateRecipe, model: Path | str) -> int:
    """How many tokens a row may have, the last one among them, which is judged and not fed."""
    from manta.models import formulas
    from manta.models.load import model_config

    settings = recipe.evaluate.harness
    assert settings is not None
    positions = formulas.max_positions(model_config(str(model)))
    if positions is not None and settings.max_length is not None and settings.max_length > positions:
        raise InputError(
            f"evaluate.harness.max_length = {settings.max_length} exceeds the model's {positions} positions: set it to null"
        )
    return settings.max_length or positions or POSITIONS


def _seed(seed: int) -> None:
    """For tasks that draw at random themselves."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)


def _metrics(results: Mapping[str, Any], loaded: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{task, metric, filter, value, stderr, aggregation, higher_is_better, questions} of tasks and groups."""
    found = []
    for name, figures in results["results"].items():
        task = loaded["tasks"].get(name)
        better = results["higher_is_better"].get(name) or {}
        for key, value in figures.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = figures.get(f"{metric}_stderr,{chosen}")
            found.append(
                {
                    "task": name,
                    "metric": metric,
                    "filter": chosen,
                    "value": float(value),
                    "stderr": float(error) if isinstance(error, (int, float)) else None,
                    "aggregation": _aggregation(task, metric),
                    "higher_is_better": better.get(metric) is not False,
                    "questions": figures.get("sample_len", figures.get("sample_count", {}).get(key)),
                }
            )
    return found


def _aggregation(task: Any, metric: str) -> str | None:
    """The name of what puts a task's questions together; None for groups and for functions of a task's own."""
    from lm_eval.api.metrics import mean
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    if task is None:
        return None
    used = task.aggregation().get(metric, mean)  # what lm_eval falls back to
    return next((name for name in FORMULAS if AGGREGATION_REGISTRY.get(name) is used), None)


def _sample(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a question: what was asked, wanted and answered, and each metric's value of it."""
    return {
        "task": task,
        "filter": row["filter"],
        "doc_id": row["doc_id"],
        "doc_hash": row["doc_hash"],
        "prompt": row["arguments"][0][0],
        "target": plain(row["target"]),
        "answers": plain(row["filtered_resps"]),
        "metrics": {name: plain(row[name]) for name in row["metrics"]},
    }


def plain(value: Any) -> Any:
    """As JSON holds it: numbers of numpy as Python's own, tuples as lists, and what is no data as its text."""
    import numpy as np

    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float)) or value is None else str(value)
