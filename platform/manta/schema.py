"""What kinds of recipe there are: one strict schema each, nothing optional by accident."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from manta.sections.adapt import Adapt, Full
from manta.sections.base import Model, NonNegative, Section
from manta.sections.compress import CompressResources, CompressSettings
from manta.sections.generate import GenerateData, GenerateSettings
from manta.sections.mix import Mix
from manta.sections.model import NewModel, SourceModel, new_or_source
from manta.sections.objective import Clm, Taught
from manta.sections.objective import Pretraining as PretrainingObjective
from manta.sections.optimisation import EarlyStop, Optimizer, Samples, Schedule, Stability, Unfreezing, Watchdog
from manta.sections.outcome import (
    EvaluateData,
    EvaluateModels,
    EvaluateResources,
    EvaluateSettings,
    Gate,
    ServedName,
    ServeModel,
    ServeResources,
    ServeSettings,
)
from manta.sections.prepare import PrepareData, PrepareResources, Tokenizer
from manta.sections.resources import TrainResources, TuneResources
from manta.sections.search import Latency, Search
from manta.sections.tasks import Answering, Task
from manta.sections.train import Batch, Checkpoint, FinetuneBatch, FinetuneData, PretrainData, Stop, Validate


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


class Pretraining(Section):
    """What a pre-training run is, apart from its name and place."""

    data: PretrainData
    model: Annotated[
        Annotated[NewModel, Tag("new")] | Annotated[SourceModel, Tag("source")], Discriminator(new_or_source)
    ] = NewModel()
    objective: PretrainingObjective = Clm(name="clm")
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


class Finetuning(Section):
    """What a fine-tuning run is, apart from its name and place."""

    data: FinetuneData
    model: SourceModel
    task: Task
    mix: Mix = []
    distil: Taught | None = Field(None, description="learn the answers also from a larger model, held by each worker")
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


class Compression(Section):
    """What a compression is, apart from its name and place."""

    model: SourceModel
    compress: CompressSettings
    resources: CompressResources = CompressResources()


class PretrainRecipe(Pretraining, Recipe):
    kind: Literal["pretrain"]


class FinetuneRecipe(Finetuning, Recipe):
    kind: Literal["finetune"]


class CompressRecipe(Compression, Recipe):
    kind: Literal["compress"]


class Trial(Section):
    """What the trials of a sweep are; name, place and seed are the sweep's."""

    kind: str


class PretrainTrial(Pretraining, Trial):
    kind: Literal["pretrain"]


class FinetuneTrial(Finetuning, Trial):
    kind: Literal["finetune"]


class CompressTrial(Compression, Trial):
    kind: Literal["compress"]


class CompressAfter(Section):
    """Compresses what a trial made."""

    compress: CompressSettings
    resources: CompressResources = CompressResources()


class EvaluateAfter(Section):
    """Scores what a trial made; the compressed model, if it was compressed."""

    base: Model | None = Field(
        None, description="what recovery, size and speed are measured against; of compressions what they are made from"
    )
    data: EvaluateData
    evaluate: EvaluateSettings = EvaluateSettings()
    resources: EvaluateResources = EvaluateResources()


class After(Section):
    """What follows each trial that was trained to its end; its figures are objectives as well: `compress.size_ratio`."""

    compress: CompressAfter | None = None
    evaluate: EvaluateAfter | None = None
    latency: Latency | None = Field(None, description="of the compressed model, if it was compressed")


class TuneRecipe(Recipe):
    """Many runs of one recipe that differ in what `search` names; the winner becomes the artifact."""

    not_identity: ClassVar[frozenset[str]] = Recipe.not_identity | {
        "trial.resources",
        "trial.checkpoint",
        "trial.watchdog",
        "after.compress.resources",
        "after.evaluate.resources",
        "search.budget",
    }

    kind: Literal["tune"]
    trial: Annotated[FinetuneTrial | PretrainTrial | CompressTrial, Field(discriminator="kind")]
    after: After = After()
    search: Search
    resources: TuneResources = TuneResources()

    @property
    def first(self) -> PretrainRecipe | FinetuneRecipe | CompressRecipe:
        """What a trial is before the search changes anything, with the sweep's name and place."""
        raw = self.trial.model_dump(mode="json") | {"name": self.name, "seed": self.seed, "output": self.output}
        made = KINDS[self.trial.kind].model_validate(raw)
        assert isinstance(made, PretrainRecipe | FinetuneRecipe | CompressRecipe)
        return made


class EvaluateRecipe(Recipe):
    kind: Literal["evaluate"]
    model: EvaluateModels
    data: EvaluateData
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: Gate = Gate()
    resources: EvaluateResources = EvaluateResources()


class GenerateRecipe(Recipe):
    """A teacher answers questions, or continues rows; what it wrote is what `finetune` or `pretrain` reads."""

    kind: Literal["generate"]
    model: SourceModel
    data: GenerateData
    task: Annotated[Answering, Field(discriminator="name")] | None = Field(
        None, description="of data.examples: how questions are put, as in the student's own recipe"
    )
    generate: GenerateSettings = GenerateSettings()
    resources: EvaluateResources = EvaluateResources()

    @model_validator(mode="after")
    def questions_of_a_task(self) -> GenerateRecipe:
        if (self.data.examples is None) != (self.task is None):
            raise ValueError("data.examples and task go together: set both, or neither")
        if self.task is not None and self.generate.prompt_tokens is not None:
            raise ValueError(
                f"generate.prompt_tokens = {self.generate.prompt_tokens} is for rows that are continued: leave it out"
            )
        return self


class ServeRecipe(Recipe):
    # Where the endpoint listens, to whom, and where it writes that down, is not what it is.
    not_identity: ClassVar[frozenset[str]] = Recipe.not_identity | {
        "serve.host",
        "serve.port",
        "serve.keys_file",
        "serve.cors_origins",
        "serve.access_log",
        "serve.otlp_endpoint",
        "serve.canary",
        "model.cpus_per_replica",
        "model.gpus_per_replica",
        "models.*.cpus_per_replica",
        "models.*.gpus_per_replica",
    }

    kind: Literal["serve"]
    model: ServeModel | None = Field(None, description="the one model, which clients call as the recipe is called")
    models: dict[ServedName, ServeModel] = Field({}, description="several models: name that clients write -> the model")
    serve: ServeSettings = ServeSettings()
    resources: ServeResources = ServeResources()

    @model_validator(mode="after")
    def one_model_or_several(self) -> ServeRecipe:
        if (self.model is None) == (not self.models):
            raise ValueError("set exactly one of model (one model, named as the recipe) and models (name: model)")
        return self

    @model_validator(mode="after")
    def every_name_once(self) -> ServeRecipe:
        taken = set(self.sections)
        for name, section in self.sections.items():
            for adapter in section.adapters:
                if adapter in taken:
                    raise ValueError(
                        f"the adapter {adapter!r} of {name!r} has the name of another model or adapter: rename one of them"
                    )
                taken.add(adapter)
        return self

    @property
    def sections(self) -> dict[str, ServeModel]:
        """The endpoint's models, by the name that clients write."""
        return self.models if self.model is None else {self.name: self.model}

    def role(self, name: str) -> str:
        """Where the recipe says what the model of this name is, as the first part of its inputs' roles."""
        return "model" if self.model is not None else f"models.{name}"


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
    "generate": GenerateRecipe,
    "serve": ServeRecipe,
    "pipeline": PipelineRecipe,
}
