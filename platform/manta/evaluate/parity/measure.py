"""One model's parity, measured in a process of its own: the same probes through the trainer's model, Transformers and vLLM."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Sequence
from typing import Any

from manta.artifact import Resolved
from manta.evaluate.parity import plain, reading, record, scores, trainer, verdict
from manta.evaluate.parity.reading import Item
from manta.evaluate.parity.record import Check
from manta.evaluate.parity.scores import Believed
from manta.evaluate.parity.subject import Subject
from manta.models.load import model_folder
from manta.schema import EvaluateRecipe
from manta.storage import Folder
from manta.tasks import labels

FILE = "work/parity.json"  # a run that broke off does not repeat it
REPORT = "parity.json"
Beliefs = dict[str, list[Believed]]  # side -> one of each item


def measure(
    recipe: EvaluateRecipe, source: Resolved, inputs: dict[str, Resolved], folder: Folder, mailbox: Any
) -> None:
    """Compare all sides on `source` and write what was found to FILE in the folder: see `compare`."""

    def note(text: str) -> None:
        mailbox.put.remote({"note": f"parity: {text}"})

    report = compare(recipe, source, inputs, note)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
    folder.write_text(FILE, json.dumps(report, ensure_ascii=False))


def compare(recipe: EvaluateRecipe, source: Resolved, inputs: dict[str, Resolved], note: Any) -> dict[str, Any]:
    """{checks: of what the run recorded, tolerance: of each pair of sides, probes: ids and distances, left_out: sentences}.

    Pairs are "trainer_transformers", "vllm_transformers" and, of a run that left an adapter, "unmerged_transformers":
    the base with the adapter beside it, against the merged model.
    """
    with model_folder(source) as place:
        subject = Subject(place)
        tokenizer = subject.tokenizer()
        items, left_out = reading.read(recipe, inputs, subject, tokenizer)
        checks, beliefs = [], {"transformers": plain.believe(plain.load(subject), subject, [i.asked for i in items])}
        note(f"{len(items)} probes through Transformers")
        checks += _answers_end(items, subject)
        if subject.compressed:
            left_out.append("the model is compressed: training has no such weights, Transformers stands for it")
        else:
            beliefs["trainer"] = trainer.believe(trainer.load(subject), subject, *_columns(items, tokenizer))
        checks += _recorded(source, subject, items, tokenizer, beliefs)
        if recipe.evaluate.engine == "vllm" and subject.served:
            _ask_vllm(recipe, subject, items, tokenizer, beliefs)
            note("and through vLLM")
        else:
            left_out.append(_why_not(recipe, subject))
    return {
        "checks": [check._asdict() for check in checks],
        "tolerance": _tolerances(recipe, subject, beliefs),
        "probes": [_told(place, item, beliefs) for place, item in enumerate(items)],
        "left_out": left_out,
    }


def _columns(items: Sequence[Item], tokenizer: Any) -> tuple[list[dict[str, Any]], int]:
    """What the trainer's model is given, and what fills it up."""
    return [item.trained for item in items], labels.filler(tokenizer)


def _answers_end(items: Sequence[Item], subject: Subject) -> list[Check]:
    """Does generation stop at the token that training ends an answer with?"""
    whole = next((item for item in items if item.kind == "conversation" and item.probe.example is None), None)
    if whole is None or (subject.positions is not None and len(whole.trained["input_ids"]) >= subject.positions):
        return []
    end = whole.trained["input_ids"][-1]
    ok = end in subject.stops()
    said = f"training ends answers with token {end}" + (
        ", and so does generation"
        if ok
        else f", generation stops at {subject.stops()}: set eos_token_id in the model's generation_config.json"
    )
    return [Check("end", ok, said)]


def _recorded(
    source: Resolved, subject: Subject, items: Sequence[Item], tokenizer: Any, beliefs: Beliefs
) -> list[Check]:
    """What the run that made the model says of it; its adapter is asked beside its base, unmerged."""
    made = record.opened(source)
    if made is None:
        return []
    checks = [record.unchanged(made), record.stored_rows(made, subject)]
    parts = record.before_merging(made)
    if isinstance(parts, Check):
        return [*checks, parts]
    if parts is not None:
        with contextlib.ExitStack() as held:
            base, adapter = held.enter_context(model_folder(parts[0])), held.enter_context(parts[1].local())
            model = trainer.load(subject, base, adapter)
            beliefs["unmerged"] = trainer.believe(model, subject, *_columns(items, tokenizer))
    return checks


def _ask_vllm(
    recipe: EvaluateRecipe, subject: Subject, items: Sequence[Item], tokenizer: Any, beliefs: Beliefs
) -> None:
    """Let vLLM read what a client would send it, and judge the trainer's ids."""
    import numpy as np

    from manta.evaluate import vllm_engine

    longest = max(max(len(item.prompt), len(item.trained["input_ids"])) for item in items)
    # Readings that part may be longer: there must be room to see by how much.
    reader = vllm_engine.reader(subject.folder, recipe.evaluate.dtype, 2 * longest)
    for item in items:
        if item.kind == "conversation":
            reading.note(item, "vllm", reader.conversation_ids(item.probe.messages[:-1]), tokenizer)
        elif item.kind == "text":
            reading.note(item, "vllm", reader.text_ids(item.probe.text), tokenizer)
    found = reader.believe([item.trained["input_ids"] for item in items])
    beliefs["vllm"] = [Believed(np.array(logs), np.array(best, dtype=np.int64)) for logs, best in found]


def _why_not(recipe: EvaluateRecipe, subject: Subject) -> str:
    if not subject.served:
        return f"vLLM is not asked: it does not serve a {subject.config['model_type']} model trained by {subject.objective}"
    return f"vLLM is not asked: evaluate.engine = {recipe.evaluate.engine!r}"


def _tolerances(recipe: EvaluateRecipe, subject: Subject, beliefs: Beliefs) -> dict[str, float]:
    """What each pair may differ by. All but vLLM compute in float32; weights that are merged are rounded as stored."""
    dtypes = {"trainer": "float32", "unmerged": subject.dtype, "vllm": recipe.evaluate.dtype}
    if subject.compressed:
        dtypes["vllm"] = "bfloat16"  # activations of 8 bits, which engines round each in their way
    return {f"{side}_transformers": verdict.tolerance(recipe.gate, dtypes[side]) for side in dtypes if side in beliefs}


def _told(place: int, item: Item, beliefs: Beliefs) -> dict[str, Any]:
    """What the report holds of a probe."""
    other = beliefs["transformers"][place]
    comparable = len(item.trained["input_ids"]) == len(item.asked["input_ids"])
    distances = {
        f"{side}_transformers": scores.distance(found[place], other).as_json()
        for side, found in beliefs.items()
        if side != "transformers" and comparable
    }
    return {
        "name": item.probe.name,
        "kind": item.kind,
        "tokens": len(item.trained["input_ids"]),
        "differences": item.differences,
        "distance": distances,
    }
