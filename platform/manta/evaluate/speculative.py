"""Does a draft model make a model quicker? The model alone and with drafts take turns in vLLM, on the beginnings of real rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from manta import isolate
from manta.artifact import Resolved
from manta.data.sample import check_vocabulary, sample_documents
from manta.errors import InputError
from manta.evaluate import speed
from manta.evaluate.speed import Seconds, Turn
from manta.schema import EvaluateRecipe
from manta.sections.speed import Speculative
from manta.storage import Folder

FILE = "work/speculative.json"
SPLIT = "validation"
DRAFT = "evaluate.speculative.draft"


def check(recipe: EvaluateRecipe, inputs: Mapping[str, Resolved]) -> None:
    """Raise InputError for drafts that cannot be measured, or of another tokenizer; packages are seen later."""
    settings = recipe.evaluate.speculative
    if settings is None:
        return
    if recipe.evaluate.engine != "vllm":
        raise InputError(
            f"evaluate.speculative is measured where it would serve, and evaluate.engine = {recipe.evaluate.engine!r}: set evaluate.engine=vllm"
        )
    if recipe.data.shards is None:
        raise InputError("evaluate.speculative continues rows of real text: set data.shards")
    if DRAFT in inputs and inputs[DRAFT].kind != "package":
        from manta.models.load import model_url

        check_vocabulary(Folder(inputs["data.shards"].path), Folder(model_url(inputs[DRAFT])))


class Writing:
    """A model in its process, alone or with a draft model beside it."""

    def __init__(self, recipe: EvaluateRecipe, source: Resolved, draft: Resolved | None, shards: Resolved):
        from manta.evaluate import vllm_engine
        from manta.models.load import model_folder

        settings = recipe.evaluate.speculative
        assert settings is not None
        self.settings = settings
        self.prompts = _prompts(shards, settings, recipe.seed)
        self.held = [model_folder(one) for one in (source, draft) if one is not None]
        folders = [held.__enter__() for held in self.held]
        needed, dtype = settings.prompt_tokens + settings.new_tokens, recipe.evaluate.dtype
        self.counted: Callable[[], tuple[int, int]] = lambda: (0, 0)
        if draft is None:
            self.write = vllm_engine.writer(folders[0], dtype, needed, 1)
        else:
            self.write, self.counted = vllm_engine.drafting(folders[0], folders[1], settings.tokens, dtype, needed)

    def turn(self) -> Turn:
        """All prompts, one at a time; what they took together."""
        counts = {"first": 1, "whole": self.settings.new_tokens}
        took = [speed.timed(self.write, [prompt], [1], counts)["1"] for prompt in self.prompts]
        return {"1": {name: Seconds(*map(sum, zip(*(one[name] for one in took), strict=True))) for name in counts}}

    def usage(self) -> dict[str, Any]:
        return {**speed.used(), "drafted": self.counted()}


def measure(
    recipe: EvaluateRecipe,
    inputs: Mapping[str, Resolved],
    folder: Folder,
    memory: Callable[[Resolved], int],
    note: Callable[[str], Any],
) -> None:
    """Leave the turns of the model alone and with drafts in FILE. Call it when nothing else of the evaluation runs."""
    settings = recipe.evaluate.speculative
    assert settings is not None
    source, draft, shards = inputs["model.source"], inputs[DRAFT], inputs["data.shards"]
    calls = [
        isolate.Call(
            Writing, (recipe, source, beside, shards), settings.cpus, memory(source) + (memory(draft) if beside else 0)
        )
        for beside in (None, draft)
    ]
    with isolate.kept(calls, f"drafts for {recipe.name}") as (alone, drafted):
        turns = speed.alternate({"alone": alone, "drafted": drafted}, settings.rounds, note)
        usage = {"alone": alone("usage"), "drafted": drafted("usage")}
    folder.write_text(FILE, json.dumps({"turns": turns, "usage": usage}))


def add(report: dict[str, Any], kept: Mapping[str, Any], settings: Speculative, seed: int) -> None:
    """Put the share of drafted tokens that were kept, and what the drafts gain, into an evaluation's report.

    `draft_kept` says whether they are worth it: whether the near end of the speedup's interval is above 1.
    """
    figures, intervals = report["figures"], report["intervals"]
    proposed, accepted = kept["usage"]["drafted"]["drafted"]
    figures["draft_accepted_rate"] = accepted / proposed if proposed else 0.0
    turns = speed.read(kept["turns"])
    for clock, name in (("wall", "draft_speedup"), ("cpu", "cpu_draft_speedup")):
        drafted, alone = (speed.rates(turns[role], 1, clock, settings.new_tokens) for role in ("drafted", "alone"))
        ratios = [one / other for one, other in zip(drafted, alone, strict=True)]
        figures[name] = statistics.median(ratios)
        intervals[name] = speed.median_interval(ratios, seed)
    near = intervals["draft_speedup"]
    figures["draft_kept"] = bool(near is not None and near[0] > 1.0)
    report["speculative"] = {"settings": settings.model_dump(mode="json"), **kept}


def _prompts(shards: Resolved, settings: Speculative, seed: int) -> list[list[int]]:
    rows = sample_documents(Folder(shards.path), SPLIT, settings.prompts, seed)
    long = [row[: settings.prompt_tokens] for row in rows if len(row) >= settings.prompt_tokens]
    if not long:
        raise InputError(
            f"evaluate.speculative.prompt_tokens = {settings.prompt_tokens}: no validation row of {shards.ref!r} has so many: set it to "
            f"{max(map(len, rows), default=0)} or less"
        )
    return long
