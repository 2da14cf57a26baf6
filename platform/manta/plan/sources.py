"""What a plan reads: the rows that a recipe trains on and the configuration of its model, as far as they are there."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from manta import artifact
from manta.errors import InputError
from manta.plan.figures import Given
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.model import NewModel
from manta.sections.objective import Masking
from manta.sections.tasks import Comparing, EmbeddingTask, TextToText
from manta.storage import NoStore

Training = PretrainRecipe | FinetuneRecipe


class Rows(NamedTuple):
    """What a recipe trains on. None: not known."""

    seq_len: int
    num_rows: int | None  # of one epoch
    vocab_size: int | None
    target_len: int | None = None  # tokens of the decoder, for models with an encoder
    scored: float = 1.0  # share of the positions whose logits are computed
    isolated: bool = False  # documents do not see each other
    sides: int = 1  # texts that a row holds side by side; they go through the model together


def rows(recipe: Training, given: Given, notes: list[str]) -> Rows | None:
    """The rows of a recipe; None where they are not there yet and `given` does not say what they will be."""
    if not isinstance(recipe, PretrainRecipe):
        return _task_rows(recipe, notes)
    from manta.data.shards import load_index

    objective = recipe.objective
    scored = objective.mask_fraction if isinstance(objective, Masking) else 1.0
    try:
        index = load_index(artifact.locate(recipe.data.shards, recipe.output))
    except NoStore as error:  # the plan of a cluster's recipe may be wanted on a laptop
        notes.append(str(error))
    except InputError:
        pass  # not prepared yet
    else:
        target = index.noise.target_len if index.noise else index.seq_len
        isolated = "position_ids" in index.columns
        return Rows(index.seq_len, index.epoch_rows(), index.vocab_size, target, scored, isolated)
    if given.seq_len and given.vocab_size:
        notes.append(
            f"data.shards = {recipe.data.shards!r} is not there yet: its rows are taken to be as the options say"
        )
        return Rows(given.seq_len, None, given.vocab_size, given.seq_len, scored, isolated=True)
    notes.append(
        f"data.shards = {recipe.data.shards!r} is not there yet, so steps, memory and hours are not known: say "
        "--seq-len and --vocab-size to have them"
    )
    return None


def _task_rows(recipe: FinetuneRecipe, notes: list[str]) -> Rows:
    task, target, scored = recipe.task, None, 1.0
    if not isinstance(task, TextToText):
        length = task.max_tokens
    elif _reads_apart(recipe):
        length, target = task.max_input_tokens, task.max_target_tokens + 1
    else:
        length = task.max_input_tokens + task.max_target_tokens
        scored = min(1.0, (task.max_target_tokens + 1) / length)  # the target's tokens and its end
    manifest = artifact.read_manifest(artifact.Folder(artifact.locate(recipe.data.examples, recipe.output)))
    found = (manifest or {}).get("metrics", {}).get("train_examples")
    count = min(filter(None, (found, recipe.data.train_rows)), default=None)
    notes.append("rows are taken as long as the task allows; real ones are cut to the longest example")
    sides = 2 if isinstance(task, Comparing) else 1
    if isinstance(task, EmbeddingTask):
        notes.append("a text and its positive are counted; with negatives memory and hours are half as much again")
    return Rows(length, count, None, target, scored, sides=sides)


def _reads_apart(recipe: FinetuneRecipe) -> bool:
    """Whether the model, if it is there, reads what is asked with an encoder and answers with a decoder."""
    from manta.models import classes

    found = source_config("model.source", recipe.model.source, recipe.output, [])
    return found is not None and classes.kind(found) == "encoder_decoder"


def config(recipe: Training, found: Rows | None, notes: list[str]) -> dict[str, Any] | None:
    """config.json of the model that will be trained; None if its source is not there yet."""
    from manta.models import presets

    if isinstance(recipe.model, NewModel):
        presets.sizes(recipe.model)  # refuses sizes that do not fit each other
        if found is None or found.vocab_size is None:
            return None
        assert isinstance(recipe, PretrainRecipe)
        return presets.config(recipe.model, found.vocab_size, {}, recipe.objective.name)
    from manta.models import classes
    from manta.train.objective import objective_of

    source = source_config("model.source", recipe.model.source, recipe.output, notes)
    return classes.suited(source, objective_of(recipe, source).name) if source is not None else None


def source_config(role: str, ref: str, output: str, notes: list[str]) -> dict[str, Any] | None:
    """config.json of a model that exists; None, and a note, where it does not yet."""
    from manta.models.load import model_config

    if not ref.startswith("package:"):
        where = artifact.locate(ref, output)
        for url in (f"{where}/model", where):
            with contextlib.suppress(FileNotFoundError):
                return model_config(url)
    notes.append(f"{role} = {ref!r} is not there yet (or is a package), so the model's size is not known")
    return None


def trainable(recipe: Training, settings: dict[str, Any], parameters: int) -> int:
    """How many weights move."""
    if isinstance(recipe, PretrainRecipe):
        return parameters
    from manta.adapt import counting

    return counting.moving(settings, recipe.adapt)
