"""Leaves a trained model as Hugging Face directories that other tools open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta.errors import StageFailed
from manta.objectives import detach
from manta.schema import FinetuneRecipe
from manta.sections.resources import TrainResources
from manta.sections.tasks import EmbeddingTask
from manta.storage import Folder
from manta.tasks.encoding.conversation import stop_at_end
from manta.tasks.labels import store_input_names
from manta.train import checkpoint, sentences
from manta.train.job import Job

# Everything but the weights that makes a Hugging Face directory usable by itself.
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "generation_config.json",
)


def export(job: Job, engine: Any, model: Any, folder: Folder) -> None:
    """Leave `model/` (and what the adaptation adds) as Hugging Face directories. All ranks call it; rank 0 writes."""
    weights = engine.weights()
    if weights is None:
        return
    model, weights = detach(job.objective, model, weights)
    parts = {"model": lambda path: model.save_pretrained(path, state_dict=weights)}
    if isinstance(job.recipe, FinetuneRecipe):
        from manta import adapt

        parts = adapt.export(model, weights, job.recipe.adapt)
    _write_parts(parts, job, folder)


def _write_parts(parts: dict[str, Any], job: Job, folder: Folder) -> None:
    with Folder(job.tokenizer).local() as tokenizer:
        for name, write in parts.items():
            with folder.staged(name) as target:
                write(target)
                if name == "model":
                    for path in _tokenizer_files(tokenizer):
                        shutil.copyfile(path, target / path.name)
                    if job.labels is not None:
                        store_input_names(target)
                    elif isinstance(job.recipe, FinetuneRecipe) and isinstance(job.recipe.task, EmbeddingTask):
                        store_input_names(target)
                        sentences.write(target, job.recipe.task.max_tokens)
                    elif isinstance(job.recipe, FinetuneRecipe) and job.objective.name != "denoising":
                        stop_at_end(target)


def _tokenizer_files(folder: Path) -> Iterator[Path]:
    for pattern in TOKENIZER_FILES:
        yield from sorted(folder.glob(pattern))


def load_best(engine: Any, folder: Folder, step: int, rank: int, resources: TrainResources) -> None:
    """Put the weights of the best validation back. Raises StageFailed where they were stored for other resources."""
    import torch

    from manta.train import engine as engines

    kept = checkpoint.at(folder, step)
    if (kept.workers, kept.zero_stage) != (resources.workers, resources.zero_stage) and resources.zero_stage:
        raise StageFailed(
            f"early_stop.keep_best: the best weights, of step {step}, were stored by {kept.workers} workers with ZeRO stage "
            f"{kept.zero_stage}: resume with resources.workers={kept.workers} resources.zero_stage={kept.zero_stage}"
        )
    with checkpoint.opened(folder, kept, False, engines.to_universal, rank, torch.distributed.barrier) as place:
        engine.load(*place)
