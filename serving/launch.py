"""Everything that must be right before an endpoint starts: the model and its proof, keys, address. Starts nothing."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from manta import artifact as artifacts
from manta import cluster
from manta.artifact import Resolved
from manta.errors import GateRefused, InputError
from manta.schema import ServeRecipe
from manta.storage import Folder
from serving import keys, origins

# Classes of Transformers that end so judge a text or fill gaps; types that vLLM does not know.
WRITE_NO_TEXT = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "ForPreTraining", "BertModel")  # fmt: skip
NOT_IN_VLLM = ("lstm",)
RECOVERIES = (
    "perplexity_recovery",
    "score_recovery",
)  # one of which proves that a compressed model was compared with its base
VLLM_COMPARED = "parity_vllm_transformers"  # the figure of an evaluation that asked vLLM what it believes


@dataclass(frozen=True)
class Launch:
    """What a replica needs to know; plain values, so that Ray can carry it to any node. Holds no secret."""

    name: str  # what clients write as `model`
    model: str  # path or URL of the Hugging Face directory
    fingerprint: str  # of the artifact that is served
    host: str
    port: int
    keys_file: str | None  # hashes of keys, one JSON object a line; each replica looks at it again and again
    key_hashes: tuple[str, ...]  # SHA-256 (hex) of keys that live as long as this endpoint
    max_model_len: int | None
    dtype: str
    max_ongoing_requests: int
    max_queued_requests: int
    requests_per_minute: int | None  # this and the next: of keys without a limit of their own
    tokens_per_minute: int | None
    max_body_bytes: int
    max_prompt_tokens: int | None
    request_seconds: float
    cors_origins: tuple[str, ...]
    access_log: str | None  # folder
    otlp_endpoint: str | None
    kv_cache_gib: float
    cpus: int
    gpus: int
    seed: int

    @property
    def models(self) -> tuple[str, ...]:
        """What clients may write as `model`."""
        return (self.name,)

    @property
    def has_keys(self) -> bool:
        """Whether a key is asked for; with neither a file nor keys of its own, anybody may ask."""
        return self.keys_file is not None or bool(self.key_hashes)

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "localhost") else "::1" if self.host == "::" else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def prepare(
    recipe: ServeRecipe,
    inputs: Mapping[str, Resolved] | None = None,
    proven: bool = True,
    key_hashes: tuple[str, ...] = (),
) -> Launch:
    """Check all that can be checked without starting anything, and pick a port where the recipe asks for a free one.

    `proven=False` lets a compressed model through without an evaluation, for its owner to try out. `key_hashes` are of
    keys that the endpoint takes besides those of its file.
    Raises InputError, or GateRefused when the model's evaluation says that it failed its gate.
    """
    inputs = dict(inputs) if inputs is not None else artifacts.resolve_inputs(recipe)
    model = inputs["model.source"]
    folder = model_folder(model)
    if proven:
        require_proof(model, inputs.get("model.evaluation"), recipe.model.parity)
    settings, resources = recipe.serve, recipe.resources
    if settings.min_replicas > settings.max_replicas:
        raise InputError(
            f"serve.min_replicas = {settings.min_replicas} exceeds serve.max_replicas = {settings.max_replicas}: raise the latter"
        )
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
        model=folder,
        fingerprint=model.fingerprint,
        host=settings.host,
        # On a cluster the port is Serve's business, whose proxies may hold it already.
        port=settings.port if settings.port and is_remote(recipe) else take_port(settings.host, settings.port),
        keys_file=None if settings.keys_file is None else keys.absolute(settings.keys_file),
        key_hashes=key_hashes,
        max_model_len=settings.max_model_len,
        dtype=settings.dtype,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        max_body_bytes=settings.max_body_bytes,
        max_prompt_tokens=settings.max_prompt_tokens,
        request_seconds=settings.request_seconds,
        cors_origins=tuple(settings.cors_origins),
        access_log=settings.access_log,
        otlp_endpoint=settings.otlp_endpoint,
        kv_cache_gib=settings.kv_cache_gib,
        cpus=resources.cpus_per_replica,
        gpus=resources.gpus_per_replica,
        seed=recipe.seed,
    )


def is_remote(recipe: ServeRecipe) -> bool:
    """Whether the endpoint goes to a running cluster instead of a Ray that is started on this machine."""
    return recipe.resources.address is not None or cluster.in_job() or "RAY_ADDRESS" in os.environ


def model_folder(model: Resolved) -> str:
    """Where the Hugging Face directory of an input is. Raises InputError when there is none to serve."""
    if model.kind == "package":
        raise InputError(
            f"{model.role} = {model.ref!r}: a package's model is not served directly: name an artifact "
            "(`manta finetune` makes one from it) or a Hugging Face directory"
        )
    if model.kind == "directory":
        _refuse_other_kinds(model, Folder(model.path))
        return model.path
    folder = Folder(model.path) / "model"
    if not folder.exists("config.json"):
        adapter = (Folder(model.path) / "adapter").exists("adapter_config.json")
        remedy = (
            "it holds only an adapter: set adapt.merge: true and run the stage again (prefix and prompt cannot be merged: "
            "tune with adapt.method=lora to serve)"
            if adapter
            else "run the stage that makes it again"
        )
        raise InputError(f"{model.role} = {model.ref!r}: {folder.url} holds no model (config.json): {remedy}")
    _refuse_other_kinds(model, folder)
    return folder.url


def _refuse_other_kinds(model: Resolved, folder: Folder) -> None:
    """Raise InputError for a model that vLLM would load for a minute and then refuse: one that continues no text."""
    config = json.loads(folder.read_text("config.json"))
    made = [name for name in config.get("architectures") or () if name.endswith(WRITE_NO_TEXT)]
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") or kind in NOT_IN_VLLM or made:
        raise InputError(
            f"{model.role} = {model.ref!r} is a {made[0] if made else kind} model, and the endpoint serves decoders that write text, such as "
            "Llama or GPT-2: open this one with Transformers (its folder is a Hugging Face directory), or fine-tune a decoder for the same "
            "examples"
        )


def compressed(model: Resolved) -> bool:
    """Whether Manta compressed it: a compression's result, or that of a sweep in which each trial was compressed."""
    if model.kind != "tune":
        return model.kind == "compress"
    made = artifacts.open_artifact(model.path).recipe
    return bool(made["trial"]["kind"] == "compress" or made["after"]["compress"])


def require_proof(model: Resolved, evaluation: Resolved | None, parity: bool = False) -> None:
    """A compressed model is served only with an evaluation that judged these very weights and let them pass.

    Any model is held to an evaluation that is named; with `parity` there must be one, and it must have compared what
    the trainer, Transformers and vLLM make of the model. Raises InputError when the proof is missing or is about another
    model, GateRefused when it says no.
    """
    if evaluation is None:
        if parity:
            raise InputError(
                f"model.evaluation is not set, but model.parity = True: `manta evaluate --parity` {model.ref!r} and name that evaluation"
            )
        if compressed(model):
            raise InputError(
                f"model.evaluation is not set, but {model.ref!r} is a compressed model: `manta evaluate` it against its "
                "base and name that evaluation, so that only a model that still works is served"
            )
        return
    proof = artifacts.open_artifact(evaluation.path)
    judged = proof.manifest["inputs"]["model.source"]
    if judged["fingerprint"] != model.fingerprint or judged["content"] != model.content:
        raise InputError(
            f"model.evaluation = {evaluation.ref!r} judged {judged['ref']!r} ({judged['fingerprint'][:12]}), "
            f"not model.source = {model.ref!r} ({model.fingerprint[:12]}) as it is now: run `manta evaluate` for this model"
        )
    if proof.metrics.get("passed") is not True:
        named = ("perplexity_recovery", "score_recovery", "parity", "gate")
        figures = {key: proof.metrics.get(key) for key in named}
        said = ", ".join(f"{key} {value}" for key, value in figures.items() if value is not None)
        raise GateRefused(
            f"model.source = {model.ref!r} failed its gate in {evaluation.ref!r} ({said}): it is not served"
        )
    if compressed(model) and all(proof.metrics.get(name) is None for name in RECOVERIES):
        raise InputError(
            f"model.evaluation = {evaluation.ref!r} compared {model.ref!r}, a compressed model, with no base: set model.base in the "
            "recipe of the evaluation, with rows (data.shards) or a task, and run `manta evaluate` again"
        )
    if parity and VLLM_COMPARED not in proof.metrics:
        raise InputError(
            f"model.evaluation = {evaluation.ref!r} did not compare vLLM with the trainer, and model.parity = True: run `manta evaluate "
            "--parity` with evaluate.engine=vllm, or set model.parity=false"
        )


def system_fingerprint(fingerprint: str) -> str:
    """What each answer's `system_fingerprint` says; the header `X-Manta-Fingerprint` carries the whole of it."""
    return f"manta-{fingerprint[:16]}"


def require_safe_host(host: str, has_keys: bool) -> None:
    """Without keys only this machine may reach the endpoint. Raises InputError."""
    if has_keys or is_loopback(host):
        return
    raise InputError(
        f"serve.host = {host!r} can be reached from other machines, but serve.keys_file is not set: "
        "make keys with `manta keys create --file FILE --name WHO` and name that file, or use serve.host=127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def take_port(host: str, port: int) -> int:
    """`port`, known to be free just now, or a free one for 0. Raises InputError naming the remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise InputError(
                f"serve.host = {host!r} is not an address of this machine: use 127.0.0.1 or 0.0.0.0"
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"serve.port = {port} is taken on {host}: stop what listens there (`manta serve stop` if it is "
                    "Manta's), or set serve.port to another one (0 picks a free one)"
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(
                    f"serve.host = {host!r} is not an address of this machine: use 127.0.0.1 or 0.0.0.0"
                ) from None
            if error.errno == errno.EACCES:
                raise InputError(
                    f"serve.port = {port} needs root ({os.strerror(error.errno)}): use one above 1023"
                ) from None
            raise
        return int(probe.getsockname()[1])
