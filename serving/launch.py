"""Everything that must be right before an endpoint starts: its models and their proofs, keys, address. Starts nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from manta import artifact as artifacts
from manta import cluster
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.errors import InputError
from manta.schema import ServeRecipe
from manta.sections.outcome import ServeModel
from manta.storage import Folder
from serving import sources
from serving.door import keys, origins
from serving.engines.adapters import find_adapter, require_fit
from serving.fleet.address import require_safe_host, take_port
from serving.fleet.scale import Scale
from serving.proof import require_proof
from serving.tasks import which

T = TypeVar("T")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that clients ask by its name."""

    name: str
    folder: str  # path or URL of the PEFT directory
    fingerprint: str
    rank: int


@dataclass(frozen=True)
class Served:
    """One model as its replicas need it; plain values, so that Ray can carry it to any node."""

    name: str  # what clients write as `model`
    model: str  # path or URL of the Hugging Face directory
    fingerprint: str  # of the artifact that is served
    runner: str  # a key of serving.engines.runners.RUNNERS
    tasks: tuple[str, ...]  # Hugging Face's names of what it answers below /v1/tasks/; none: it writes text
    adapters: tuple[Adapter, ...]
    max_model_len: int | None
    longest: int | None  # tokens of prompt and answer that it takes; None: its configuration does not say plainly
    dtype: str
    tool_parser: str  # of vLLM's: how a model that writes text writes calls of tools
    kv_cache_gib: float
    cpus: int
    gpus: int
    min_replicas: int
    max_replicas: int
    max_ongoing_requests: int  # of one replica
    max_prompt_tokens: int | None
    otlp_endpoint: str | None
    seed: int
    taught: dict[str, Any] | None = None  # the task section of the recipe that tuned it
    mask_token: str | None = None  # what stands for a gap
    slot: str = ""  # one of update.SLOTS: two versions of a model may stand beside each other

    @property
    def deployment(self) -> str:
        """Serve's name of its replicas."""
        return f"Replica-{self.name}{self.slot}"

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may write to have it answer: its own name and those of its adapters."""
        return (self.name, *(adapter.name for adapter in self.adapters))

    def fingerprints(self, name: str) -> tuple[str, ...]:
        """What answers under one of its names: the model's, then that of the adapter, if the name is one's."""
        return (self.fingerprint, *(adapter.fingerprint for adapter in self.adapters if adapter.name == name))


@dataclass(frozen=True)
class Canary:
    """Other versions of models, beside those that are served; a share of 0: they stand there and are not asked."""

    served: tuple[Served, ...]
    share: float  # of the requests for each


@dataclass(frozen=True)
class Launch:
    """The endpoint, as whoever opens its port needs to know it; plain values, and no secret."""

    name: str
    served: tuple[Served, ...]
    host: str
    port: int
    keys_file: str | None  # hashes of keys, one JSON object a line; each replica looks at it again and again
    key_hashes: tuple[str, ...]  # SHA-256 (hex) of keys that live as long as this endpoint
    max_queued_requests: int
    requests_per_minute: int | None  # this and the next: of keys without a limit of their own
    tokens_per_minute: int | None
    max_body_bytes: int
    request_seconds: float
    cors_origins: tuple[str, ...]
    access_log: str | None  # folder
    front: bool  # a Front of its own, even for one replica
    routing: str  # a key of serving.fleet.routing.ROUTERS
    hold_seconds: float  # a request waits so long for a replica where there is none
    scale: Scale
    canary: Canary | None = None

    @property
    def versions(self) -> tuple[Served, ...]:
        """All that has replicas."""
        return (*self.served, *(self.canary.served if self.canary is not None else ()))

    @property
    def models(self) -> tuple[str, ...]:
        """What clients may write as `model`, adapters included."""
        return tuple(name for one in self.served for name in one.names)

    def find(self, name: str) -> Served | None:
        """The model that answers under a name, its own or an adapter's."""
        return next((one for one in self.served if name in one.names), None)

    @property
    def fingerprint(self) -> str:
        """Of all that is served: the model's own, where there is one without adapters."""
        if self.models == (self.served[0].name,):
            return self.served[0].fingerprint
        return recipes.digest({name: one.fingerprints(name) for one in self.served for name in one.names})

    @property
    def is_single(self) -> bool:
        """One replica, always: on one machine it opens the port itself, and nothing is copied between processes."""
        return not self.front and [(one.min_replicas, one.max_replicas) for one in self.served] == [(1, 1)]

    @property
    def has_keys(self) -> bool:
        """Whether a key is asked for; with neither a file nor keys of its own, anybody may ask."""
        return self.keys_file is not None or bool(self.key_hashes)

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "localhost") else "::1" if self.host == "::" else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def to_plain(launch: Launch) -> dict[str, Any]:
    """A launch as JSON has it."""
    return dict(TypeAdapter(Launch).dump_python(launch, mode="json"))


def from_plain(plain: Mapping[str, Any]) -> Launch:
    return TypeAdapter(Launch).validate_python(plain)


def prepare(
    recipe: ServeRecipe,
    inputs: Mapping[str, Resolved] | None = None,
    proven: bool = True,
    key_hashes: tuple[str, ...] = (),
) -> Launch:
    """Check all that can be checked without starting anything, and pick a port where the recipe asks for a free one.

    `proven=False` lets a compressed model through without an evaluation, for its owner to try out. `key_hashes` are of
    keys that the endpoint takes besides those of its file.
    Raises InputError, or GateRefused when a model's evaluation says that it failed its gate.
    """
    inputs = dict(inputs) if inputs is not None else artifacts.resolve_inputs(recipe)
    served = tuple(_served(recipe, name, section, inputs, proven) for name, section in recipe.sections.items())
    settings = recipe.serve
    if settings.keys_file is not None and not keys.read(settings.keys_file):
        raise InputError(
            f"serve.keys_file = {settings.keys_file!r} holds no key: make one with `manta keys create --file "
            f"{settings.keys_file} --name WHO`, or leave it out"
        )
    has_keys = settings.keys_file is not None or bool(key_hashes)
    require_safe_host(settings.host, has_keys)
    origins.require_sane(settings.cors_origins, has_keys)
    return Launch(
        name=recipe.name,
        served=served,
        host=settings.host,
        # On a cluster the port is Serve's business, whose proxies may hold it already.
        port=settings.port if settings.port and is_remote(recipe) else take_port(settings.host, settings.port),
        keys_file=None if settings.keys_file is None else keys.absolute(settings.keys_file),
        key_hashes=key_hashes,
        max_queued_requests=settings.max_queued_requests,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        max_body_bytes=settings.max_body_bytes,
        request_seconds=settings.request_seconds,
        cors_origins=tuple(settings.cors_origins),
        access_log=settings.access_log,
        front=settings.front,
        routing=settings.routing,
        hold_seconds=settings.hold_seconds,
        scale=Scale(
            target_requests=_own(settings.scale.target_requests, 0.8 * settings.max_ongoing_requests),
            target_tokens=settings.scale.target_tokens,
            target_ttft_ms=settings.scale.target_ttft_ms,
            up_seconds=settings.scale.up_seconds,
            down_seconds=settings.scale.down_seconds,
        ),
    )


def _served(
    recipe: ServeRecipe, name: str, section: ServeModel, inputs: Mapping[str, Resolved], proven: bool
) -> Served:
    """One model of the recipe. What its section leaves open is as the recipe says for all."""
    role, settings, resources = recipe.role(name), recipe.serve, recipe.resources
    model = inputs[f"{role}.source"]
    folder, config = sources.find_model(model)
    taught = which.taught(model)
    tasks = which.tasks_of(model, Folder(folder), config, taught)
    if proven:
        require_proof(model, inputs.get(f"{role}.evaluation"), section.parity)
    length = _own(section.max_model_len, settings.max_model_len)
    gpus = _own(section.gpus_per_replica, resources.gpus_per_replica)
    least = _own(section.min_replicas, settings.min_replicas)
    most = _own(section.max_replicas, settings.max_replicas)
    if least > most:
        where = "serve" if section.min_replicas is None and section.max_replicas is None else role
        raise InputError(f"{where}.min_replicas = {least} exceeds {where}.max_replicas = {most}: raise the latter")
    if tasks:
        which.refuse_unread(role, name, section, tasks, gpus)
    return Served(
        name=name,
        model=folder,
        fingerprint=model.fingerprint,
        runner="transformers" if tasks else "vllm",
        tasks=tasks,
        adapters=tuple(_adapters(role, section, inputs, folder, config, gpus)),
        max_model_len=length,
        longest=length or sources.longest(config),
        dtype=_own(section.dtype, settings.dtype),
        tool_parser=_own(section.tool_parser, settings.tool_parser),
        kv_cache_gib=_own(section.kv_cache_gib, settings.kv_cache_gib),
        cpus=_own(section.cpus_per_replica, resources.cpus_per_replica),
        gpus=gpus,
        min_replicas=least,
        max_replicas=most,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_prompt_tokens=settings.max_prompt_tokens,
        otlp_endpoint=settings.otlp_endpoint,
        seed=recipe.seed,
        taught=taught,
        mask_token=which.mask_token(Folder(folder)) if "fill-mask" in tasks else None,
    )


def _adapters(
    role: str, section: ServeModel, inputs: Mapping[str, Resolved], model: str, config: dict[str, Any], gpus: int
) -> Iterator[Adapter]:
    """The adapters of one model, each of which must fit it. Raises InputError."""
    for name in section.adapters:
        given = inputs[f"{role}.adapters.{name}"]
        folder = find_adapter(given)
        rank = require_fit(given, Folder(folder), inputs[f"{role}.source"], Folder(model), config, gpus)
        yield Adapter(name, folder, given.fingerprint, rank)


def _own(of_model: T | None, of_all: T) -> T:
    return of_all if of_model is None else of_model


def is_remote(recipe: ServeRecipe) -> bool:
    """Whether the endpoint goes to a running cluster instead of a Ray that is started on this machine."""
    return recipe.resources.address is not None or cluster.in_job() or "RAY_ADDRESS" in os.environ


def system_fingerprint(*fingerprints: str) -> str:
    """What an answer's `system_fingerprint` says of a model, and of its adapter; headers carry the whole of them."""
    return f"manta-{'+'.join(fingerprint[:16] for fingerprint in fingerprints)}"
