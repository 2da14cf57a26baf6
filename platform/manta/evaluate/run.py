"""The evaluate stage: measures a model and its base alike, says how much was kept, and refuses what is too little."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from manta import cluster, isolate
from manta.artifact import Artifact, Draft, Resolved
from manta.errors import GateRefused, InputError
from manta.evaluate import (
    adding,
    agreement,
    asking,
    comparing,
    copies,
    explanations,
    gate,
    labelling,
    speculative,
    speed,
)
from manta.evaluate.harness import stage as harness
from manta.evaluate.measure import SPLIT, file_of, measure
from manta.evaluate.parity import stage as parity
from manta.evaluate.robustness import trial
from manta.progress import Progress
from manta.schema import EvaluateRecipe
from manta.storage import Folder

# The outcome of measuring nothing.
NOTHING: dict[str, Any] = {"nll": [], "tokens": [], "predictions": [], "references": [], "engine_gap": None}
ROLES = {"model": "model.source", "base": "model.base", "reference": "model.reference"}
SCORES = "scores.json"


def check(recipe: EvaluateRecipe, inputs: dict[str, Resolved]) -> None:
    """Raise InputError for an evaluation that measures nothing, a gate it cannot feed, or data that does not fit."""
    labelling.check(recipe)
    comparing.check(recipe)
    asking.check(recipe, {role: inputs[role] for role in ROLES.values() if role in inputs})
    parity.check(recipe)
    copies.check(recipe)
    trial.check(recipe)
    harness.check(recipe, inputs)
    speculative.check(recipe, inputs)
    settings = recipe.evaluate
    rows, task = settings.perplexity_rows > 0, settings.task is not None and settings.task_samples > 0
    if rows and recipe.data.shards is None:
        raise InputError(
            "evaluate.perplexity_rows needs rows: set data.shards, or evaluate.perplexity_rows=0 to skip perplexity"
        )
    if task != (recipe.data.examples is not None):
        raise InputError(
            "data.examples and evaluate.task go together: set both (and evaluate.task_samples above 0), or neither"
        )
    alone = settings.parity or any((settings.harness, settings.speed, settings.speculative))
    if not rows and not task and not alone:
        raise InputError("nothing to evaluate: set data.shards (perplexity) or data.examples and evaluate.task (score)")
    gate.check(recipe, rows, task)
    if rows:
        _check_rows(inputs)
    if task:
        from manta.tasks import examples

        assert settings.task is not None
        if not examples.read(inputs, SPLIT, recipe.data, settings.task):
            raise InputError(
                f"data.examples = {recipe.data.examples!r} holds no validation examples: raise data.validation_fraction, "
                "to the same as in the fine-tuning recipe"
            )


def _check_rows(inputs: dict[str, Resolved]) -> None:
    from manta.data.sample import check_vocabulary
    from manta.data.shards import load_index
    from manta.models.load import model_config, model_url

    shards = inputs["data.shards"]
    index = load_index(shards.path)
    if not index.rows(SPLIT):
        raise InputError(
            f"data.shards = {shards.ref!r} has no {SPLIT} rows: prepare it with a larger data.validation_fraction"
        )
    for role in ROLES.values():
        if role not in inputs or inputs[role].kind == "package":  # packages are unpacked later, and checked then
            continue
        url = model_url(inputs[role])
        positions = model_config(url).get("max_position_embeddings")
        if positions is not None and index.seq_len > positions:
            raise InputError(
                f"data.shards = {shards.ref!r}: its rows have {index.seq_len} tokens, {role} = {inputs[role].ref!r} takes {positions}: "
                f"prepare rows with data.seq_len={positions}"
            )
        check_vocabulary(Folder(shards.path), Folder(url))


def inventory(recipe: EvaluateRecipe) -> str | None:
    """What the figures depend on that no recipe names."""
    return trial.inventory(recipe)


def run(recipe: EvaluateRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Write scores.json (figures with intervals, every prediction) and return the figures, `passed` among them."""
    started = time.monotonic()
    models = {name: draft.inputs[role] for name, role in ROLES.items() if role in draft.inputs}
    _measure(recipe, draft, models if measures(recipe) else {}, progress)
    measured = {name: json.loads(draft.folder.read_text(file_of(name))) for name in models if measures(recipe)}
    timed = speed.found(draft.folder) if recipe.evaluate.speed else None
    report = summarise(recipe, comparing.settled(recipe, measured or {"model": NOTHING}), timed)
    drafts = speed.found(draft.folder, speculative.FILE) if recipe.evaluate.speculative else None
    if drafts is not None:
        assert recipe.evaluate.speculative is not None
        speculative.add(report, drafts, recipe.evaluate.speculative, recipe.seed)
    if timed is not None and (told := speed.disturbed(report["figures"])):
        progress.note(told)
    found = parity.found(draft.folder) if recipe.evaluate.parity else None
    if found is not None:
        parity.add(report["figures"], found)
        draft.folder.write_text(parity.REPORT, json.dumps(finite(found), indent=2, ensure_ascii=False) + "\n")
    asked = harness.found(draft.folder) if recipe.evaluate.harness else None
    if asked is not None:
        harness.add(report, asked, recipe.seed)
        harness.store(finite(asked), draft.folder)
    report = finite(report)
    report["models"] = {name: {"ref": item.ref, "fingerprint": item.fingerprint} for name, item in models.items()}
    explanations.store(measured.get("model", {}), draft.folder)
    draft.folder.write_text(SCORES, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    figures: dict[str, Any] = report["figures"]
    outcomes = [*measured.values(), *([one for one in (found, asked, timed, drafts) if one])]
    return figures | {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": sum(outcome["cpu_seconds"] for outcome in outcomes),
    }


def measures(recipe: EvaluateRecipe) -> bool:
    """Whether rows or examples are judged at all: parity or the harness may be asked for alone."""
    return recipe.evaluate.perplexity_rows > 0 or (
        recipe.evaluate.task is not None and recipe.evaluate.task_samples > 0
    )


def _measure(recipe: EvaluateRecipe, draft: Draft, models: dict[str, Resolved], progress: Progress) -> None:
    """Leave what is not there yet of the models' measurements, parity and the harness, each made in a process of its own."""
    resources, left = recipe.resources, [name for name in models if not draft.folder.exists(file_of(name))]
    compares = recipe.evaluate.parity and not draft.folder.exists(parity.FILE)
    asks = recipe.evaluate.harness is not None and not draft.folder.exists(harness.FILE)
    timings = [
        (module, settings)
        for module, settings in ((speed, recipe.evaluate.speed), (speculative, recipe.evaluate.speculative))
        if settings is not None and not draft.folder.exists(module.FILE)
    ]
    if not left and not compares and not asks and not timings:
        return
    threads = max([resources.cpus, *(settings.cpus for _, settings in timings)])
    cluster.connect(resources.address, threads)
    cluster.check_fits(resources.workers, max(1, threads // resources.workers), 0)
    # Side by side with a share of the CPUs each: most of the time goes into loading, which uses one core. Several
    # workers are a model's own, and take the CPUs from the process that shares the work out to them.
    spread = resources.workers > 1
    share = max(1, resources.cpus // max(1, len(left) + compares + asks))
    with cluster.relay(progress) as mailbox:
        calls = [
            isolate.Call(
                measure,
                (recipe, name, models[name], draft.inputs, draft.folder, mailbox),
                cpus=0 if spread else share,
                memory=memory_bytes(models[name]),
                environment={"OMP_NUM_THREADS": "1"} if spread else {},
            )
            for name in left
        ]
        if compares:
            arguments = (recipe, draft.inputs["model.source"], draft.inputs, draft.folder, mailbox)
            calls.append(isolate.Call(parity.measure, arguments, share, memory_bytes(draft.inputs["model.source"])))
        if asks:
            source = draft.inputs["model.source"]
            arguments = (recipe, source, draft.inputs, draft.folder, mailbox)
            calls.append(isolate.Call(harness.measure, arguments, share, memory_bytes(source), harness.ENVIRONMENT))
        for together in [[call] for call in calls] if spread else [calls]:
            if together:
                isolate.run(together, f"evaluate {recipe.name}")
    for module, _ in timings:  # last, and one by one: what else the evaluation starts has ended
        module.measure(recipe, draft.inputs, draft.folder, memory_bytes, progress.note)


def memory_bytes(model: Resolved) -> int:
    """What measuring a model takes at most: its weights in both engines (float32 in one), and the engines themselves."""
    from manta.models.load import model_url

    weights = 0 if model.kind == "package" else Folder(model_url(model)).size()
    return 4 * weights + (2 << 30)


def summarise(
    recipe: EvaluateRecipe, measured: dict[str, dict[str, Any]], timed: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Figures, intervals and single results from the measurements of "model" and, if it was measured, "base"; `timed` is
    what `speed` found of both."""
    model, base = measured["model"], measured.get("base")
    figures: dict[str, Any] = {}
    report: dict[str, Any] = {"figures": figures, "intervals": {}}
    if model["nll"]:
        adding.perplexity(report, model, base, recipe.seed)
    if model["predictions"]:
        assert recipe.evaluate.task is not None
        adding.score(report, recipe.evaluate.task.name, model, base, recipe.seed)
        adding.robustness(report, recipe, model)
    adding.sizes(figures, measured, timed)
    if timed is not None:
        assert recipe.evaluate.speed is not None
        speed.add(report, timed, recipe.evaluate.speed, recipe.seed)
    for prefix, one in (("", model), ("base_", base)):
        if one is not None:
            figures[f"{prefix}engine_gap"] = one["engine_gap"]
            if one.get("token_gap") is not None:
                figures[f"{prefix}token_gap"] = one["token_gap"]
    if base is not None and (allowed := agreement.explained(model, base)) is not None:
        figures["token_gap_explained"] = allowed
    figures["gate"] = recipe.gate.model_dump(mode="json", exclude_none=True)
    figures["missed"] = gate.missed(recipe.gate, figures, report["intervals"], bool(model.get("compressed")))
    figures["passed"] = not figures["missed"]
    return report


def finite(value: Any) -> Any:
    """The same data with null for what JSON cannot hold: a broken model's infinities and not-a-numbers."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdict(recipe: EvaluateRecipe, artifact: Artifact) -> None:
    """Raise GateRefused if the evaluated model missed a figure of its gate; also when it was evaluated earlier."""
    misses = artifact.metrics["missed"]
    if misses:
        listed = "\n  ".join(misses)
        raise GateRefused(
            f"{recipe.model.source} is refused:\n  {listed}\n"
            f"compress it more gently (compress.quantise.algorithm, compress.quantise.smoothquant, more calibration rows) or lower the gate; details: {artifact.folder.url}/{SCORES}"
        )
