"""Whether a model may be served: what its evaluation must have shown."""

from __future__ import annotations

from manta import artifact as artifacts
from manta.artifact import Resolved
from manta.errors import GateRefused, InputError

RECOVERIES = (
    "perplexity_recovery",
    "score_recovery",
)  # one of which proves that a compressed model was compared with its base
VLLM_COMPARED = "parity_vllm_transformers"  # the figure of an evaluation that asked vLLM what it believes


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
    role = model.role.rpartition(".")[0]
    if evaluation is None:
        if parity:
            raise InputError(
                f"{role}.evaluation is not set, but {role}.parity = True: `manta evaluate --parity` {model.ref!r} and name that evaluation"
            )
        if compressed(model):
            raise InputError(
                f"{role}.evaluation is not set, but {model.ref!r} is a compressed model: `manta evaluate` it against its "
                "base and name that evaluation, so that only a model that still works is served"
            )
        return
    proof = artifacts.open_artifact(evaluation.path)
    judged = proof.manifest["inputs"]["model.source"]
    if judged["fingerprint"] != model.fingerprint or judged["content"] != model.content:
        raise InputError(
            f"{role}.evaluation = {evaluation.ref!r} judged {judged['ref']!r} ({judged['fingerprint'][:12]}), "
            f"not {model.role} = {model.ref!r} ({model.fingerprint[:12]}) as it is now: run `manta evaluate` for this model"
        )
    if proof.metrics.get("passed") is not True:
        named = ("perplexity_recovery", "score_recovery", "parity", "gate")
        figures = {key: proof.metrics.get(key) for key in named}
        said = ", ".join(f"{key} {value}" for key, value in figures.items() if value is not None)
        raise GateRefused(
            f"{model.role} = {model.ref!r} failed its gate in {evaluation.ref!r} ({said}): it is not served"
        )
    if compressed(model) and all(proof.metrics.get(name) is None for name in RECOVERIES):
        raise InputError(
            f"{role}.evaluation = {evaluation.ref!r} compared {model.ref!r}, a compressed model, with no base: set model.base in the "
            "recipe of the evaluation, with rows (data.shards) or a task, and run `manta evaluate` again"
        )
    if parity and VLLM_COMPARED not in proof.metrics:
        raise InputError(
            f"{role}.evaluation = {evaluation.ref!r} did not compare vLLM with the trainer, and {role}.parity = True: run `manta evaluate "
            f"--parity` with evaluate.engine=vllm, or set {role}.parity=false"
        )
