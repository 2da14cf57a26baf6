"""What kinds of recipe there are: one strict schema each, nothing optional by accident."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from manta.sections.adapt import Adapt, Full
from manta.sections.base import NonNegative, Section
from manta.sections.mix import Mix
from manta.sections.model import NewModel, SourceModel, new_or_source
from manta.sections.objective import Clm, Pretraining
from manta.sections.optimisation import EarlyStop, Optimizer, Samples, Schedule, Stability, Unfreezing, Watchdog
from manta.sections.outcome import (
    CompressResources,
    CompressSettings,
    EvaluateData,
    EvaluateModels,
    EvaluateResources,
    EvaluateSettings,
    Gate,
    ServeModel,
    ServeResources,
    ServeSettings,
)
from manta.sections.prepare import PrepareData, PrepareResources, Tokenizer
from manta.sections.resources import TrainResources, TuneResources
from manta.sections.tasks import Task
from manta.sections.train import Batch, Checkpoint, FinetuneBatch, FinetuneData, PretrainData, Search, Stop, Validate


class Recipe(Section):
    """What every kind has. `not_identity` names the fields that never change a run's fingerprint."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"name", "output", "resources", "checkpoint", "watchdog"})

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: NonNegative = 0
    output: str = Field("runs", description="folder or URL that holds the artifacts")


class PrepareRecipe(Recipe):
    kind: Literal["prepare"]
    data: PrepareData
    tokenizer: Tokenizer = Tokenizer()
    resources: PrepareResources = PrepareResources()


class PretrainRecipe(Recipe):
    kind: Literal["pretrain"]
    data: PretrainData
    model: Annotated[
        Annotated[NewModel, Tag("new")] | Annotated[SourceModel, Tag("source")], Discriminator(new_or_source)
    ] = NewModel()
    objective: Pretraining = Clm(name="clm")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    unfreezing: Unfreezing | None = None
    stability: Stability = Stability()
    early_stop: EarlyStop | None = None
    watchdog: Watchdog = Watchdog()
    batch: Batch
    stop: Stop
    checkpoint: Checkpoint = Checkpoint()
    evaluate: Validate = Validate()
    samples: Samples | None = None
    resources: TrainResources = TrainResources()


class FinetuneRecipe(Recipe):
    kind: Literal["finetune"]
    data: FinetuneData
    model: SourceModel
    task: Task
    mix: Mix = []
    adapt: Adapt = Full(method="full")
    optimizer: Optimizer = Optimizer(lr=2.0e-4, weight_decay=0.0)
    schedule: Schedule = Schedule()
    unfreezing: Unfreezing | None = None
    stability: Stability = Stability()
    early_stop: EarlyStop | None = None
    watchdog: Watchdog = Watchdog()
    batch: FinetuneBatch
    stop: Stop
    checkpoint: Checkpoint = Checkpoint()
    evaluate: Validate = Validate()
    resources: TrainResources = TrainResources()


class TuneRecipe(Recipe):
    """A fine-tuning recipe with a `search` section; the winner becomes the artifact."""

    kind: Literal["tune"]
    data: FinetuneData
    model: SourceModel
    task: Task
    mix: Mix = []
    adapt: Adapt = Full(method="full")
    optimizer: Optimizer = Optimizer(lr=2.0e-4, weight_decay=0.0)
    schedule: Schedule = Schedule()
    unfreezing: Unfreezing | None = None
    stability: Stability = Stability()
    early_stop: EarlyStop | None = None
    watchdog: Watchdog = Watchdog()
    batch: FinetuneBatch
    stop: Stop
    checkpoint: Checkpoint = Checkpoint()
    evaluate: Validate = Validate()
    search: Search
    resources: TuneResources = TuneResources()


class CompressRecipe(Recipe):
    kind: Literal["compress"]
    model: SourceModel
    compress: CompressSettings
    resources: CompressResources = CompressResources()


class EvaluateRecipe(Recipe):
    kind: Literal["evaluate"]
    model: EvaluateModels
    data: EvaluateData
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: Gate = Gate()
    resources: EvaluateResources = EvaluateResources()


class ServeRecipe(Recipe):
    # Where the endpoint listens, and to whom, is not what it is.
    not_identity: ClassVar[frozenset[str]] = Recipe.not_identity | {"serve.host", "serve.port", "serve.keys_file"}

    kind: Literal["serve"]
    model: ServeModel
    serve: ServeSettings = ServeSettings()
    resources: ServeResources = ServeResources()


class PipelineRecipe(Section):
    """A chain of recipes, in order, all under one `output`."""

    kind: Literal["pipeline"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    output: str = "runs"
    stages: list[str] = Field(min_length=1, description="recipe files, relative to this one")


KINDS: dict[str, type[BaseModel]] = {
    "prepare": PrepareRecipe,
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "tune": TuneRecipe,
    "compress": CompressRecipe,
    "evaluate": EvaluateRecipe,
    "serve": ServeRecipe,
    "pipeline": PipelineRecipe,
}
