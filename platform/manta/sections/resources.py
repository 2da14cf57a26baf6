"""The vocabulary of what training runs on: workers, what each keeps in its memory, how they speak with each other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from manta.sections.base import NonNegative, Positive, Section

# Ways to cut one model over several workers that recipes know from elsewhere -> why they are refused. Tried with
# deepspeed 0.19.8 on two workers against the curve of one; docs/log.md has the figures.
REFUSED = {
    "tensor_parallel": "DeepSpeed cuts Llama and BERT right, but refuses GPT-2, trains T5 to another curve and exports BART without "
    "one of its weights: set resources.zero_stage=3, which spreads the weights of every model over the workers",
    "sequence_parallel": "DeepSpeed's drops the mask that keeps the documents of a row apart, and knows models of Llama's kind alone: set "
    "resources.activation_checkpointing=true, a lower resources.micro_batch, or prepare shards with a lower data.seq_len",
    "pipeline": "DeepSpeed's takes the mean of each pass for the mean over the tokens of the global batch, and steps before it can be "
    "said whether the step is to count: set resources.zero_stage=3, which spreads the weights over the workers",
}


class Communication(Section):
    """How gradients travel between workers under ZeRO 1 to 3. None of it changes more than the order of sums."""

    overlap: bool | None = Field(
        None, description="sum gradients while the backward pass goes on; none: as DeepSpeed does, under stage 3 alone"
    )
    bucket_bytes: Annotated[int, Field(ge=2**16)] | None = Field(
        None, description="gradients (and gathered weights) sent at a time; none: DeepSpeed's 500 million numbers"
    )
    fp32_sums: bool = Field(False, description="with bf16 weights: send and add up gradients in fp32, twice the bytes")


class TrainResources(Section):
    """Never part of a run's identity: whatever is set here, the loss curve is the same."""

    workers: Positive = 1
    cpus_per_worker: Positive = 1
    gpus_per_worker: NonNegative = 0
    micro_batch: Positive = Field(4, description="rows per forward pass of one worker")
    zero_stage: Literal[0, 1, 2, 3] = 1
    activation_checkpointing: bool = Field(
        False,
        description="keep the input of each layer alone and compute the rest again: less memory, a third more work",
    )
    compile: bool = Field(
        False, description="torch.compile: quicker steps after a slower first one; ZeRO stages 0 to 2, on CPUs with g++"
    )
    offload: Literal["none", "optimizer", "optimizer_and_weights"] = Field(
        "none", description="what moves from the GPU to the host's memory between its uses"
    )
    communication: Communication = Communication()
    max_restarts: NonNegative = Field(3, description="worker failures survived before the run stops, resumable")
    address: str | None = Field(None, description="Ray address; none starts Ray on this machine")

    @model_validator(mode="before")
    @classmethod
    def no_model_parallelism(cls, given: Any) -> Any:
        for name, reason in REFUSED.items():
            if isinstance(given, dict) and name in given:
                raise ValueError(f"resources.{name} = {given[name]!r} is not offered: {reason}")
        return given

    @model_validator(mode="after")
    def compile_whole_weights(self) -> TrainResources:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "resources.compile = True: under resources.zero_stage = 3 weights come and go between a model's operations, which "
                "leaves nothing whole to compile: set resources.compile=false, or resources.zero_stage=0, 1 or 2"
            )
        return self

    @model_validator(mode="after")
    def offload_where_there_is_another_memory(self) -> TrainResources:
        if self.offload == "none":
            return self
        given = f"resources.offload = {self.offload!r}"
        if self.gpus_per_worker == 0:
            raise ValueError(
                f"{given}: without GPUs (resources.gpus_per_worker = 0) everything is in the host's memory already: set "
                "resources.offload=none; resources.zero_stage=3 over more workers and resources.activation_checkpointing=true save memory"
            )
        if self.zero_stage == 0:
            raise ValueError(f"{given} needs ZeRO, and resources.zero_stage = 0: set resources.zero_stage=1, 2 or 3")
        if self.offload == "optimizer_and_weights" and self.zero_stage != 3:
            raise ValueError(
                f"{given}: under resources.zero_stage = {self.zero_stage} each worker computes with all weights at once: "
                "set resources.zero_stage=3, or resources.offload=optimizer"
            )
        return self

    @model_validator(mode="after")
    def communication_where_it_is_read(self) -> TrainResources:
        given = self.communication
        if given.overlap and self.gpus_per_worker == 0:
            raise ValueError(
                "resources.communication.overlap = True: a CPU has no second stream, gradients would only be copied once more: "
                "leave it out"
            )
        if self.zero_stage > 0:
            return self
        for key, value in {"overlap": given.overlap, "bucket_bytes": given.bucket_bytes}.items():
            if value is not None:
                raise ValueError(
                    f"resources.communication.{key} = {value!r} is not read with resources.zero_stage = 0: leave it out, or "
                    "set resources.zero_stage=1, 2 or 3"
                )
        return self


class TuneResources(Section):
    """Of the sweep itself; what each of its trials gets stands in the trial's own resources."""

    concurrent_trials: Positive = Field(
        1, description="runs that train at once, at most; fewer where the cluster is smaller"
    )
    address: str | None = Field(None, description="Ray address; none starts Ray on this machine")
