"""The teacher of a distillation: who it is, whether it fits, and where its answers come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.data.shards import Index, load_index
from manta.data.stream import Beside
from manta.errors import InputError
from manta.models import classes, formulas, load
from manta.objectives.stored import COLUMN, words
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.objective import Distillation, Taught
from manta.storage import Folder
from manta.train.mixed import vocabulary

if TYPE_CHECKING:
    from manta.train.job import Job

FOLDER = "work/teacher"  # below the run's own


def taught(recipe: PretrainRecipe | FinetuneRecipe) -> tuple[str, Taught] | None:
    """Where a recipe names a teacher, and what it says of the teaching; None where there is none."""
    if isinstance(recipe, FinetuneRecipe):
        return None if recipe.distil is None else ("distil", recipe.distil)
    return ("objective", recipe.objective) if isinstance(recipe.objective, Distillation) else None


def check(
    recipe: PretrainRecipe | FinetuneRecipe,
    inputs: Mapping[str, Resolved],
    student: Mapping[str, Any],
    tokenizer: Folder,
    index: Index | None = None,
) -> None:
    """Raise InputError for a teacher that does not read rows of this tokenizer, or of this index, or has no such states.

    `student` is the content of the config.json of what is taught; the rows of a task have no index before they are made.
    """
    found = taught(recipe)
    if found is None:
        return
    path, settings = found
    teacher = inputs[f"{path}.teacher"]
    config, told = load.model_config(load.model_url(teacher)), f"{path}.teacher = {settings.teacher!r}"
    if (kind := classes.kind(config)) != "decoder":
        raise InputError(
            f"{told} is of type {config['model_type']!r}, an {kind.replace('_', '-')}, and only decoders can be learnt from: name "
            "a decoder, such as one of type llama or gpt2"
        )
    own, read = (vocabulary(folder) for folder in (Folder(load.model_url(teacher)), tokenizer))
    if own is not None and read is not None and own != read:
        raise InputError(
            f"{told} has another tokenizer than the rows, so that its probabilities are of other tokens: name a teacher with the same "
            "tokenizer; a student whose vocabulary was trimmed has to be taught before it is trimmed"
        )
    positions = formulas.max_positions(config)
    if index is not None and positions is not None and index.seq_len > positions:
        raise InputError(
            f"{told} reads rows of at most {positions} tokens, and these have {index.seq_len}: "
            + ("shorten what the task allows" if path == "distil" else "prepare rows with a lower data.seq_len")
        )
    if index is not None and index.vocab_size > int(config["vocab_size"]):
        raise InputError(
            f"{told} knows {config['vocab_size']} tokens, and the rows may hold any of {index.vocab_size}: name a teacher that knows all"
        )
    if settings.hidden is not None and "lstm" in (config["model_type"], student["model_type"]):
        raise InputError(
            f"{path}.hidden compares the blocks of two transformers, and one of these models is an lstm: set {path}.hidden=null"
        )


# --- a teacher at hand -----------------------------------------------------------------------------------------------


def at_hand(job: Job) -> Any:
    """The teacher of a job that asks it in each step, on this worker's device; None of any other job."""
    if not isinstance(job.objective, Distillation) or job.objective.teacher_mode != "live":
        return None
    assert job.teacher is not None
    with Folder(job.teacher).local() as path:
        model = load.load(path, job.recipe.optimizer.precision, "distillation")
    model.requires_grad_(False)
    return model.eval().to("cuda" if job.recipe.resources.gpus_per_worker else "cpu")


def width(job: Job) -> int | None:
    """Of the teacher's states, where they are compared."""
    if not isinstance(job.objective, Distillation) or job.objective.hidden is None:
        return None
    assert job.teacher is not None
    return formulas.shape(load.model_config(job.teacher)).main.width


# --- what is stored --------------------------------------------------------------------------------------------------


def joined(job: Job, draft: Draft) -> Job:
    """The job with its teacher, if it has one, and its feed with the column that `lessons.store` computes.

    That is stored below the run's folder, or where a sweep's runs share it.
    """
    if (named := taught(job.recipe)) is None:
        return job
    index, read = load_index(job.feed.shards), Folder(job.source or f"{job.feed.shards}/tokenizer")
    check(job.recipe, draft.inputs, job.config or load.model_config(job.source or ""), read, index)
    job, objective = replace(job, teacher=load.model_url(draft.inputs[f"{named[0]}.teacher"])), job.objective
    if not isinstance(objective, Distillation) or objective.teacher_mode == "live":
        return job
    place = draft.folder / FOLDER
    if job.marks is not None:
        place = Folder(job.marks.shared) / _name(job, draft.inputs)
    size = vocab(job)
    top_k = min(objective.likeliest, size, int(load.model_config(job.teacher or "")["vocab_size"]))
    found = Beside(place.url, (COLUMN,), index.seq_len * words(top_k, size))
    return replace(job, feed=replace(job.feed, beside=found))


def vocab(job: Job) -> int:
    """Tokens that the student's output has."""
    return int((job.config or load.model_config(job.source or ""))["vocab_size"])


def _name(job: Job, inputs: Mapping[str, Resolved]) -> str:
    """A name for all that decides what is stored."""
    recipe = job.recipe
    assert isinstance(recipe, PretrainRecipe)
    assert isinstance(recipe.objective, Distillation)
    decides: dict[str, Any] = {
        "inputs": {role: inputs[role].content for role in ("data.shards", "objective.teacher")},
        "vocab": vocab(job),
        "seed": recipe.seed,
        "samples": job.feed.steps * job.feed.batch,
        "temperature": recipe.objective.temperature,
        "top_k": recipe.objective.likeliest,
        "precision": recipe.optimizer.precision,
    }
    return recipes.digest(decides)[:16]
