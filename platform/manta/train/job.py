"""What the driver decided before the workers start, and the model it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manta.data.stream import Feed
from manta.mix import Order
from manta.objectives import attach
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.objective import Objective
from manta.storage import Folder
from manta.tasks.labels import Labels
from manta.train import teacher
from manta.train.marks import Marks


@dataclass(frozen=True)
class Job:
    """Plain values, the same on every rank."""

    recipe: PretrainRecipe | FinetuneRecipe
    objective: Objective  # see train.objective
    folder: str  # the run's own
    feed: Feed  # of all steps
    accumulation: int
    flops_per_token: float
    config: dict[str, Any] | None  # content of config.json of a model from scratch
    source: str | None  # Hugging Face directory of a model to start from
    tokenizer: str  # directory with the tokenizer's files
    mailbox: Any  # cluster.relay's actor
    labels: Labels | None = None  # of a task that labels
    head: dict[str, Any] | None = None  # what config.json is to say of its head
    marks: Marks | None = None  # at which the run asks whether it is to go on
    teacher: str | None = None  # Hugging Face directory of the model to learn from
    tokens: int | None = None  # that embeddings must have rows for, where the task brings tokens of its own
    # Of a mix, whose first stream is this job's own feed and objective:
    shares: tuple[int, ...] = (1,)  # of the steps, of each stream
    names: tuple[str, ...] = ("",)
    beside: tuple[Job, ...] = ()  # the other streams; their models are this one

    @property
    def streams(self) -> tuple[Job, ...]:
        return (self, *self.beside)

    @property
    def order(self) -> Order:
        return Order(self.shares)

    @property
    def steps(self) -> int:
        """Of the whole run, of all streams."""
        return sum(stream.feed.steps for stream in self.streams)

    def said(self, stream: int, loss: float) -> dict[str, Any]:
        """What the line of a step of a mix says of its stream."""
        name = self.names[stream]
        return {"stream": name, f"loss_{name}": loss} if self.beside else {}


def model_of(job: Job, note: Callable[[str], Any]) -> Any:
    """The model as training starts: from scratch or from a source, adapted if the recipe says so; equal on all ranks."""
    import torch

    width = teacher.width(job)
    if job.config is not None:
        from manta.models.build import build

        return attach(job.objective, build(job.config, job.recipe.seed, job.objective.name), job.recipe.seed, width)
    from manta.models.load import load

    assert job.source is not None
    with Folder(job.source).local() as path:
        model = load(path, job.recipe.optimizer.precision, job.objective.name, job.recipe.seed, note, job.head)
    if job.tokens is not None and model.get_input_embeddings().num_embeddings < job.tokens:
        _grow(model, job.tokens, job.recipe.seed)
        note(f"the embeddings have {job.tokens} rows now, for the tokens that the task brings")
    if isinstance(job.recipe, FinetuneRecipe):
        from manta import adapt

        torch.manual_seed(job.recipe.seed)
        model = adapt.apply(model, job.recipe.adapt)
        note(adapt.describe(model))
    return attach(job.objective, model, job.recipe.seed, width)


def _grow(model: Any, tokens: int, seed: int) -> None:
    """New rows of the embeddings start as all did, from the seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.resize_token_embeddings(tokens, mean_resizing=False)
