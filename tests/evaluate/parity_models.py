"""Tiny models of every family with a tokenizer, and a fine-tuning run's folder without its training, for the tests of parity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.artifact import Artifact, Draft, Resolved
from manta.schema import EvaluateRecipe, FinetuneRecipe
from tests.models.samples import tiny
from tests.tasks import labelled

CHATS = [{"input": f"How many are {n} and {n}?", "target": f"{2 * n}, I think."} for n in range(12)]
Change = Callable[[dict[str, Any], dict[str, Any]], None]  # of the merged weights, given those of the base


def of_family(family: str, folder: Path) -> Path:
    """A language model of a family, its weights far enough from zero for beliefs to differ, and a tokenizer of bytes."""
    from manta.data import tokenizer

    folder.mkdir(parents=True)
    model = tiny(family)
    for name, parameter in model.named_parameters():
        # T5 leaves it to its queries to keep scores small: doubled, they are so large that rounding differs by processor.
        parameter.data *= 1 if family == "t5" and name.endswith(".q.weight") else 2
    model.save_pretrained(folder)
    tokenizer.train(iter(["a"]), 300, folder)
    stop(folder)
    return folder


def of_head(name: str, folder: Path) -> Path:
    """A model with a head: what it says of its labels stands in config.json."""
    import transformers

    labels = {0: "no", 1: "yes", 2: "maybe"}
    given = {"id2label": labels, "label2id": {word: number for number, word in labels.items()}}
    if name == "several":
        return labelled.bert(
            folder, "BertForSequenceClassification", problem_type="multi_label_classification", **given
        )
    if name == "BertForQuestionAnswering":  # whose two outputs are the ends of an answer
        return labelled.bert(folder, name)
    if name != "llama":
        return labelled.bert(folder, name, **given)
    labelled.llama(folder)
    pad = transformers.AutoTokenizer.from_pretrained(folder).pad_token_id
    body = transformers.LlamaForSequenceClassification.from_pretrained(folder, pad_token_id=pad, **given)
    body.save_pretrained(folder)
    return folder


def stop(folder: Path) -> None:
    """Let generation stop where the chat template ends an answer."""
    from manta.tasks.encoding.conversation import stop_at_end

    stop_at_end(folder)


def recipe_of(source: Path | str, *overrides: str) -> EvaluateRecipe:
    """An evaluation of parity alone, between the trainer and Transformers."""
    raw: dict[str, Any] = {
        "kind": "evaluate",
        "name": "scores",
        "model": {"source": str(source)},
        "data": {},
        "evaluate": {"parity": True, "engine": "transformers", "dtype": "float32", "perplexity_rows": 0},
    }
    made = recipes.validate(recipes.override(raw, overrides))
    assert isinstance(made, EvaluateRecipe)
    return made


def directory(folder: Path) -> Resolved:
    return Resolved("model.source", str(folder), "directory", str(folder), "f", "c")


def compared(source: Resolved, *overrides: str, inputs: dict[str, Resolved] | None = None) -> dict[str, Any]:
    """The report of a comparison in this process."""
    from manta.evaluate.parity.measure import compare

    return compare(recipe_of(source.path, *overrides), source, inputs or {}, lambda _: None)


def tuned(output: Path, method: str = "lora", change: Change | None = None) -> Resolved:
    """What a fine-tuning run leaves: rows, a merged model, its adapter; with `change` the run itself merges wrongly."""
    import torch

    from manta import adapt
    from manta.models.load import load
    from manta.progress import Progress
    from manta.tasks.encoding import rows

    base = of_family("llama", output / "source")
    (output / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    recipe = recipes.validate(
        {
            "kind": "finetune",
            "name": "tuned",
            "output": str(output),
            "data": {"examples": str(output / "chats.jsonl"), "validation_fraction": 0.4},
            "model": {"source": str(base)},
            "task": {"name": "chat"},
            "adapt": {"method": method},
            "batch": {"samples": 4},
            "stop": {"steps": 1},
        }
    )
    assert isinstance(recipe, FinetuneRecipe)
    with artifacts.draft(recipe, artifacts.resolve_inputs(recipe), None, False) as draft:
        assert isinstance(draft, Draft)
        rows.write(recipe, draft.inputs, base, draft.folder / "work/rows", Progress(quiet=True))
        torch.manual_seed(0)
        model = adapt.apply(load(base), recipe.adapt)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter) if parameter.requires_grad else 0.0
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        for name, write in adapt.export(model, weights, recipe.adapt).items():
            with draft.folder.staged(name) as target:
                write(target)
        complete(base, output / "tuned" / "model")
        if change is not None:
            rewrite(output / "tuned" / "model", base, change)
        made: Artifact = draft.finish({})
    content = str(made.manifest["content"])
    return Resolved("model.source", "tuned", "finetune", str(output / "tuned"), made.fingerprint, content)


def complete(base: Path, model: Path) -> None:
    """The tokenizer's files beside the weights."""
    for path in base.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "generation_config")):
            (model / path.name).write_bytes(path.read_bytes())


def rewrite(model: Path, base: Path, change: Change) -> None:
    """Change the weights of a directory, knowing those of another."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    change(weights, load_file(base / "model.safetensors"))
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
