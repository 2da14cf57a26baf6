"""The generate stage: a teacher answers questions or continues rows; what is fit to learn becomes examples or shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from manta.artifact import Draft, Resolved
from manta.errors import InputError, Problem, StageFailed
from manta.progress import Progress
from manta.schema import GenerateRecipe
from manta.storage import Folder

DONE, ANSWERS = "work/done.json", "work/answers"


def problems(recipe: GenerateRecipe) -> Iterator[Problem]:
    """What contradicts itself."""
    workers, cpus = recipe.resources.workers, recipe.resources.cpus
    if workers > cpus:
        yield Problem(
            "resources.workers",
            workers,
            f"share resources.cpus = {cpus}, and each needs one: set resources.cpus={workers}",
        )


def check(recipe: GenerateRecipe, inputs: dict[str, Resolved]) -> None:
    """Raise InputError for a teacher that cannot write what is asked, or data that do not fit it."""
    from manta.models import classes
    from manta.models.load import model_config, model_url
    from manta.tasks.encoding import seq2seq

    url = model_url(inputs["model.source"])
    config = model_config(url)
    kind, told = classes.kind(config), f"model.source = {recipe.model.source!r} is of type {config['model_type']!r}"
    if kind == "encoder":
        raise InputError(f"{told}, an encoder, which writes nothing: name a decoder or an encoder-decoder")
    if recipe.task is not None:
        seq2seq.refuse_unread(recipe.task, config)
    if kind == "decoder":
        if recipe.data.shards is not None:
            _check_rows(recipe, inputs["data.shards"], url, config)
        return
    if recipe.data.shards is not None:
        raise InputError(f"{told}, with an encoder and a decoder, which continues no rows: set data.examples and task")
    if recipe.generate.engine != "transformers":
        raise InputError(
            f"generate.engine = {recipe.generate.engine!r} does not run such models: {told}, with an encoder and a decoder: set "
            "generate.engine=transformers"
        )
    if recipe.generate.temperature > 0.0:
        raise InputError(
            f"generate.temperature = {recipe.generate.temperature:g}: {told}, with an encoder and a decoder, whose likeliest answers are "
            "taken: set generate.temperature=0 (task.beams looks further)"
        )


def _check_rows(recipe: GenerateRecipe, shards: Resolved, url: str, config: dict[str, Any]) -> None:
    from manta.data.sample import check_vocabulary
    from manta.data.shards import COLUMN, load_index
    from manta.models import formulas

    index, positions = load_index(shards.path), formulas.max_positions(config)
    if index.layout != "concat" or index.columns != (COLUMN,):
        raise InputError(
            f"data.shards = {shards.ref!r} has rows of layout {index.layout!r} with the columns {', '.join(index.columns)}, and those that are "
            "continued are plain text: prepare them with data.layout.kind=concat, without isolate"
        )
    if recipe.generate.given >= index.seq_len:
        raise InputError(
            f"generate.prompt_tokens = {recipe.generate.given} leaves nothing to write of rows of {index.seq_len} tokens: lower it"
        )
    if positions is not None and index.seq_len > positions:
        raise InputError(
            f"data.shards = {shards.ref!r}: its rows have {index.seq_len} tokens, model.source = {recipe.model.source!r} takes {positions}: "
            f"prepare rows with data.seq_len={positions}"
        )
    check_vocabulary(Folder(shards.path), Folder(url))


def run(recipe: GenerateRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Ask, write part by part, judge, and leave examples or shards. What an earlier attempt has written is not asked again."""
    folder = draft.folder
    if not folder.exists(DONE):
        figures = _make(recipe, draft, progress)
        folder.write_text(DONE, json.dumps(figures))
    figures = json.loads(folder.read_text(DONE))
    if folder.exists(ANSWERS):
        folder.clear(ANSWERS)
    return dict(figures)


def _make(recipe: GenerateRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from manta.generate import keeping, prompts, writing
    from manta.models.load import model_config, model_folder

    source, folder = draft.inputs["model.source"], draft.folder
    with model_folder(source) as model:
        tokenizer, config = AutoTokenizer.from_pretrained(model, local_files_only=True), model_config(str(model))
    held_out: list[dict[str, Any]] = []
    if recipe.task is None:
        asked = prompts.of_rows(recipe, draft.inputs["data.shards"])
    else:
        asked, held_out = prompts.of_examples(recipe, draft.inputs, tokenizer, config)
    wanted = writing.asks(recipe, asked.prompts)
    answers, seconds = writing.write(recipe, source, wanted, folder, progress)
    kept = keeping.sort(recipe, asked, answers, tokenizer)
    keeping.write_dropped(folder, kept)
    total = len(asked.prompts) * recipe.generate.samples
    if not any(kept.texts[: asked.train]):
        raise StageFailed(
            f"none of the teacher's {total} answers can be learnt from ({_told(kept.reasons)}): look at {folder.url}/{keeping.DROPPED}; "
            "a teacher that was tuned to answer ends what it says, and temperature above 0 repeats less"
        )
    if recipe.task is None:
        made = keeping.write_rows(folder, draft.inputs["data.shards"], asked, kept)
        if not made["train_rows"]:
            raise StageFailed(
                f"the {kept.count} continuations fill no row: raise data.train_rows, or prepare rows with a lower data.seq_len"
            )
    else:
        made = keeping.write_examples(folder, asked, held_out, kept)
    tokens = sum(len(answer.ids) for answer in answers)
    progress.note(
        f"{kept.count:,} of {total:,} answers are kept" + (f", left out: {_told(kept.reasons)}" if kept.dropped else "")
    )
    return {
        "questions": len(asked.prompts),
        "answers": kept.count,
        "left_out": kept.reasons,
        "left_out_share": round(len(kept.dropped) / total, 5),
        "generated_tokens": tokens,
        "tokens_per_second": round(tokens / max(1e-9, seconds), 2),
        **made,
    }


def _told(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none was asked for"
