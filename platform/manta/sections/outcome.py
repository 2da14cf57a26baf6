"""The vocabulary of recipes: the sections of evaluation and serving."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from manta.sections.base import (
    Adapter,
    Evaluation,
    Examples,
    Fraction,
    Model,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    Shards,
)
from manta.sections.compress import CompressResources
from manta.sections.harness import Harness
from manta.sections.robustness import Robustness
from manta.sections.speed import Speculative, Speed
from manta.sections.tasks import Task


class EvaluateSettings(Section):
    engine: Literal["vllm", "transformers"] = "vllm"
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="of the activations; judge as you will serve")
    perplexity_rows: NonNegative = Field(64, description="validation rows scored; 0 skips perplexity")
    task: Task | None = None
    task_samples: NonNegative = Field(100, description="validation examples generated and scored; 0 skips the task")
    parity: bool = Field(
        False, description="also: do the trainer, Transformers and vLLM read the same and believe the same? (--parity)"
    )
    robustness: Robustness | None = Field(None, description="also: what changed texts cost, and what an attack does")
    explain: NonNegative = Field(0, description="also: examples of classification whose labels are explained by words")
    harness: Harness | None = Field(
        None, description="also: tasks in the format of lm-evaluation-harness, on local data"
    )
    speed: Speed | None = Field(None, description="also: how quickly the model answers, and its base")
    speculative: Speculative | None = Field(None, description="also: whether drafts of a small model make it quicker")


class EvaluateResources(CompressResources):
    workers: Positive = Field(1, description="copies of a model that share the rows and examples, and the CPUs")


class EvaluateData(Section):
    shards: Shards | None = None
    examples: Examples | None = None
    validation_fraction: Fraction = Field(0.05, description="as in fine-tuning, where examples are one file; 1 for all")
    columns: dict[str, str] = Field({}, description="field of the task -> column of the file, where they differ")


class Gate(Section):
    """What a model must reach: recovery against the base in per cent, sizes and speeds, and the same figures in two engines."""

    perplexity_recovery: Annotated[float, Field(ge=0.0, le=200.0)] | None = Field(
        None, description="100 * base perplexity / perplexity, at least"
    )
    score_recovery: Annotated[float, Field(ge=0.0, le=1000.0)] | None = Field(
        None, description="100 * score / base score, at least"
    )
    token_drift: PositiveFloat | None = Field(
        None, description="mean distance of a token's log-probability from the base's in nats, at most"
    )
    size_ratio: PositiveFloat | None = Field(None, description="bytes of the weights / those of the base, at most")
    speedup_1: PositiveFloat | None = Field(
        None, description="tokens a second / those of the base, one request at a time, at least"
    )
    speedup_16: PositiveFloat | None = Field(None, description="the same for 16 requests at a time")
    cpu_speedup_1: PositiveFloat | None = Field(
        None, description="as speedup_1 by seconds of CPU time: where the machine has other work, and no GPU"
    )
    cpu_speedup_16: PositiveFloat | None = Field(None, description="as speedup_16 by seconds of CPU time")
    first_token_ms: PositiveFloat | None = Field(
        None, description="from a request of evaluate.speed.prompt_tokens to the first token, at most"
    )
    confident: bool = Field(
        False, description="also the near end of a figure's 95% interval must pass, where it has one"
    )
    engine_gap: Fraction | None = Field(
        0.05,
        description="largest relative difference of perplexity between vllm and transformers; none skips the check",
    )
    token_gap: PositiveFloat | None = Field(
        None,
        description="largest mean difference of a token's log-probability between the two, in nats: sees errors that leave "
        "perplexity where it was; none: what precision and compression explain, by model.base",
    )
    parity: PositiveFloat | None = Field(
        None, description="largest difference of a log-probability in nats; none: what the precision explains"
    )


# What clients write as `model`.
ServedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ServeDtype = Literal["bfloat16", "float32", "auto"]


class Scale(Section):
    """What one replica shall have to do; where max_replicas exceeds min_replicas their number follows."""

    target_requests: PositiveFloat | None = Field(
        None, description="requests at work and waiting; none: 0.8 of max_ongoing_requests"
    )
    target_tokens: PositiveFloat | None = Field(
        None, description="tokens not done yet: of prompts, and of answers where max_tokens is said"
    )
    target_ttft_ms: PositiveFloat | None = Field(
        None, description="mean time of streams to their first token: beyond it one more replica"
    )
    up_seconds: PositiveFloat = Field(10.0, description="more has to be wanted for so long before a replica starts")
    down_seconds: PositiveFloat = Field(120.0, description="less, before one that has nothing to do ends")


class Canary(Section):
    """How `manta serve --update` tries a new version: on a share of the requests, beside the old one, until it can be told.

    A share of errors is compared by its difference, times by their ratio; each by bounds that hold with `confidence`.
    """

    share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.1, description="of the requests that the new version gets")
    requests: Positive = Field(200, description="that the new version must have answered before it may take over")
    seconds: PositiveFloat = Field(600.0, description="by then it must be told whether it is as good")
    max_error_rate_increase: Fraction = Field(0.02, description="0.02: two of a hundred requests more may fail")
    max_ttft_ratio: PositiveFloat | None = Field(1.25, description="time of streams to their first token, over the old")
    max_tpot_ratio: PositiveFloat | None = Field(1.25, description="time of streams per token after that, over the old")
    max_latency_ratio: PositiveFloat | None = Field(
        1.25, description="time of answers that are not streamed, over the old"
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = Field(
        0.95, description="that no good version is sent back, and that no worse one takes over"
    )
    inconclusive: Literal["go-back", "promote"] = Field(
        "go-back",
        description="what happens where it cannot be told in time, as there were too few requests or it is close",
    )


class ServeSettings(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="0 picks a free port")
    keys_file: str | None = Field(None, description="file of `manta keys`, local or s3://...; none: loopback only")
    max_model_len: Positive | None = None
    dtype: ServeDtype = "bfloat16"
    tool_parser: str = Field("hermes", description="how the model writes calls of tools: a name of vLLM's tool parsers")
    min_replicas: NonNegative = Field(
        1, description="0: none while nobody asks; the next request waits for one to start"
    )
    max_replicas: Positive = 1
    scale: Scale = Scale()
    front: bool = Field(
        False,
        description="a Front of its own even for one replica: requests wait while that restarts, and it can be updated",
    )
    routing: Literal["least-busy", "prefix"] = Field(
        "least-busy",
        description="which replica answers; prefix: the one that has seen the prompt's beginning, if it can",
    )
    canary: Canary | None = Field(
        None,
        description="behind a Front: --update tries a new version on a share of the requests; none: replaces at once",
    )
    hold_seconds: PositiveFloat = Field(
        120.0, description="behind a Front: so long a request waits for a replica where there is none; beyond it 503"
    )
    max_ongoing_requests: Positive = 64
    max_queued_requests: NonNegative = Field(128, description="beyond it: 503 with Retry-After")
    requests_per_minute: Positive | None = Field(None, description="per key; beyond it: 429 with Retry-After")
    tokens_per_minute: Positive | None = Field(None, description="per key, of prompts and answers; beyond it: 429")
    max_body_bytes: Positive = Field(1_048_576, description="beyond it: 413")
    max_prompt_tokens: Positive | None = Field(None, description="beyond it: 400 before the engine works")
    request_seconds: PositiveFloat = Field(600.0, description="longest time for one answer; beyond it: 504")
    cors_origins: list[str] = Field(
        [], description="web pages that may ask, such as https://app.example.org; * for all"
    )
    access_log: str | None = Field(None, description="folder for the access logs; none: with Ray's logs on each node")
    otlp_endpoint: str | None = Field(None, description="where vLLM sends OpenTelemetry traces: http://host:4317")
    kv_cache_gib: PositiveFloat = Field(1.0, description="CPU engines: memory for the key-value cache")
    smoke: list[str | dict[str, Any]] = Field(
        [], description="what `manta run` asks before it calls the endpoint complete: texts, or the inputs of a task"
    )


class ServeResources(Section):
    cpus_per_replica: Positive = 1
    gpus_per_replica: NonNegative = 0
    address: str | None = None


class EvaluateModels(Section):
    source: Model
    base: Model | None = Field(None, description="what recovery is measured against")
    reference: Model | None = Field(
        None,
        description="preferences: what they were tuned from, which the margins of both models are measured against",
    )


class ServeModel(Section):
    """One model of an endpoint. What is none here is as `serve` and `resources` say for all of them."""

    source: Model
    evaluation: Evaluation | None = Field(None, description="required for a compressed model: the proof it still works")
    parity: bool = Field(False, description="serve only what model.evaluation has proved parity of")
    adapters: dict[ServedName, Adapter] = Field(
        {}, description="LoRA adapters of this model: name that clients write -> artifact or PEFT directory"
    )
    min_replicas: NonNegative | None = None
    max_replicas: Positive | None = None
    max_model_len: Positive | None = None
    dtype: ServeDtype | None = None
    tool_parser: str | None = None
    kv_cache_gib: PositiveFloat | None = None
    cpus_per_replica: Positive | None = None
    gpus_per_replica: NonNegative | None = None
