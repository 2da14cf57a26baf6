"""The settings of a recipe that nobody wrote: each follows from the facts, and says why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from manta.quick.facts import SHARE, Facts
from manta.sections.tasks import AnsweringTask
from manta.tasks import ANSWERING, COMPARING, TASKS

LORA_FROM = 100_000_000  # weights of a decoder
BYTES = 16  # of memory for a weight that moves: itself, its gradient and two moments, in fp32
LONGEST = 1024  # tokens of a row, unless the user wants more: time and memory grow with it
# (up to this many weights, peak rate when all of them move): encoders as BERT's authors tried them, the small ones as
# the small BERTs' did (arXiv:1810.04805 appendix A.3, arXiv:1908.08962); decoders fall alike.
ENCODER_RATES = ((15_000_000, 3e-4), (60_000_000, 1e-4), (math.inf, 3e-5))
DECODER_RATES = ((30_000_000, 5e-4), (300_000_000, 1e-4), (math.inf, 2e-5))
LORA_RATES = ((300_000_000, 1e-3), (math.inf, 2e-4))
PREFERENCE_SHARE = 0.05  # of these rates: answers that were learnt are only to be weighed anew
# (up to this many examples, the value)
EPOCHS = ((200, 10.0), (2_000, 5.0), (20_000, 3.0), (math.inf, 2.0))
BATCHES = ((300, 8), (5_000, 16), (math.inf, 32))
FRACTIONS = ((100, 0.2), (20_000, 0.1), (math.inf, 0.05))
MICRO = ((128, 16), (512, 8), (math.inf, 4))  # by the tokens of a row
MISSING = object()


class Choice(NamedTuple):
    """A setting that was decided here: `path` as an override writes it."""

    path: str
    value: Any
    reason: str


class Choices:
    """Collects what is decided; what the user wrote (`given`, a raw recipe) is never decided again."""

    def __init__(self, given: Mapping[str, Any]):
        self.given, self.made = given, list[Choice]()

    def take(self, path: str, value: Any, reason: str, instead: tuple[str, ...] = ()) -> Any:
        """The value that holds: the user's, else this one. None where the user ruled the section out, or set one of
        `instead`, which exclude it."""
        found = self.look(path)
        if found is not MISSING:
            return found
        if any(self.look(other) is not MISSING for other in instead):
            return None
        self.made.append(Choice(path, value, reason))
        return value

    def look(self, path: str) -> Any:
        """What the user wrote there, MISSING if nothing; None below a section that was set to null or another value."""
        node: Any = self.given
        for key in path.split("."):
            if not isinstance(node, Mapping):
                return None
            if key not in node:
                return MISSING
            node = node[key]
        return node


def finetuning(facts: Facts, given: Mapping[str, Any]) -> list[Choice]:
    """What a fine-tuning recipe needs beside its model, its examples and its task."""
    take = Choices(given)
    longest = _lengths(take, facts)
    if facts.fraction is not None:
        take.take("data.validation_fraction", facts.fraction, "this part of the file validates")
    method = _adapt(take, facts)
    _optimizer(take, facts, method)
    batch = take.take(
        "batch.samples", step(BATCHES, facts.train), f"{facts.train:,} training examples", ("batch.tokens",)
    )
    epochs = take.take(
        "stop.epochs",
        step(EPOCHS, facts.train),
        f"at most; {facts.train:,} training examples",
        ("stop.steps", "stop.tokens"),
    )
    _validation(take, facts, batch, epochs)
    _resources(take, facts, batch, longest)
    return take.made


def evaluation(facts: Facts, given: Mapping[str, Any], vllm: bool) -> list[Choice]:
    """What an evaluation needs beside its model, its examples and its task."""
    take = Choices(given)
    writes = facts.task["name"] in ANSWERING and facts.model.kind == "decoder"
    reason = (
        "a decoder writes its answers" if writes else f"vLLM does not compute {facts.task['name']} of {_said(facts)}"
    )
    engine = "vllm" if writes and vllm else "transformers"
    take.take("evaluate.engine", engine, reason if vllm or not writes else f"{reason}; vllm is not installed")
    precise = "bfloat16" if facts.machine.bf16 else "float32"
    take.take("evaluate.dtype", precise, _arithmetic(facts))
    take.take("evaluate.perplexity_rows", 0, "examples are scored alone")
    take.take("evaluate.task_samples", min(2000, facts.validation), f"{facts.validation:,} examples")
    if facts.fraction is not None:
        kept = "of the file that the model was trained on, what was kept back"
        take.take(
            "data.validation_fraction", facts.fraction, kept if facts.fraction < 1 else "the whole file is scored"
        )
    taught = facts.model.taught
    if taught is not None and taught.get("name") == facts.task["name"]:
        for name, value in taught.items():
            if name != "name":
                take.take(f"evaluate.task.{name}", value, "as the model was taught")
    else:
        _lengths(take, facts, "evaluate.task")
    take.take("resources.cpus", facts.machine.cores, "all cores of this machine")
    return take.made


def fraction(examples: int) -> float:
    """The part of one file that validates."""
    return float(step(FRACTIONS, examples))


def step(table: tuple[tuple[float, Any], ...], at: float) -> Any:
    """The value of the first entry that reaches `at`."""
    return next(value for limit, value in table if at <= limit)


# --- parts -----------------------------------------------------------------------------------------------------------


def _lengths(take: Choices, facts: Facts, section: str = "task") -> int:
    """Settles the task's lengths; returns the tokens that a row may have."""
    total = 0
    room = min(facts.model.positions or LONGEST, LONGEST)
    for name, (usual, most) in facts.lengths.items():
        value = max(16, min(-(-usual // 8) * 8, room))
        cut = (
            "all fit"
            if most <= value
            else f"{SHARE:.0%} of the examples have at most {usual} tokens, the longest {most}"
        )
        if usual > room:
            cut = f"the most that is taken without being asked for; {SHARE:.0%} of the examples have at most {usual} tokens"
        found = take.take(f"{section}.{name}", value, cut)
        total += found if isinstance(found, int) else value
    window = AnsweringTask.model_fields["max_tokens"].default if facts.task["name"] == "answering" else LONGEST
    return total or int(facts.task.get("max_tokens", window))


def _adapt(take: Choices, facts: Facts) -> str:
    weights, memory = facts.model.parameters, facts.machine.memory_bytes
    told = f"{_said(facts)} of {_millions(weights)} weights"
    if facts.model.kind == "decoder" and weights >= LORA_FROM:
        return str(take.take("adapt.method", "lora", f"{told}: little memory, and what it can do is kept"))
    if BYTES * weights > memory / 2 and not facts.machine.gpus:
        return str(
            take.take(
                "adapt.method", "lora", f"{told}: all of them would take {BYTES * weights / 2**30:.0f} GiB to train"
            )
        )
    return str(take.take("adapt.method", "full", f"{told}: all of them move"))


def _optimizer(take: Choices, facts: Facts, method: str) -> None:
    weights, adapter = facts.model.parameters, method not in ("full", "freeze", "bitfit", "None")
    table = LORA_RATES if adapter else ENCODER_RATES if facts.model.kind == "encoder" else DECODER_RATES
    rate, why = step(table, weights), f"usual for {method} with {_millions(weights)} weights"
    if facts.task["name"] == "preference":
        rate, why = rate * PREFERENCE_SHARE, f"{PREFERENCE_SHARE:g} of what is {why}: preferences want small steps"
    take.take("optimizer.lr", rate, why)
    take.take("optimizer.weight_decay", 0.0 if adapter else 0.01, "none of an adapter" if adapter else "usual")
    take.take("optimizer.precision", "bf16" if facts.machine.bf16 else "fp32", _arithmetic(facts))
    take.take("schedule.name", "linear", "falls to the end")
    take.take("schedule.warmup_fraction", 0.1, "a new head or adapter starts gently")


def _validation(take: Choices, facts: Facts, batch: Any, epochs: Any) -> None:
    """Two validations an epoch where it is long enough; the best of them is kept."""
    batch = batch if isinstance(batch, int) else 16
    an_epoch = max(1, facts.train // batch)
    every = take.take("evaluate.every_steps", max(5, min(500, an_epoch // 2)), f"an epoch has {an_epoch} steps")
    take.take("evaluate.max_rows", min(2000, max(1, facts.validation)), f"{facts.validation:,} examples validate")
    take.take(
        "checkpoint.every_steps",
        max(50, every if isinstance(every, int) else 50),
        "so much is lost at most when a machine fails",
    )
    scored = "score" in getattr(TASKS[facts.task["name"]], "SCORES", ())
    figure = take.take(
        "early_stop.figure", "score" if scored else "loss", "ends when it gets no better, and keeps the best"
    )
    if figure is not None:
        take.take(
            "early_stop.mode",
            "min" if figure == "loss" else "max",
            "a lower loss is better" if figure == "loss" else "higher is better",
        )
        planned = epochs * an_epoch / every if isinstance(epochs, float | int) and isinstance(every, int) else 0
        take.take(
            "early_stop.patience", max(5, round(planned / 2)), "validations in a row, half of those that are planned"
        )


def _resources(take: Choices, facts: Facts, batch: Any, longest: int) -> None:
    machine = facts.machine
    workers = take.take("resources.workers", 1, "one machine; more workers give the same curve sooner")
    take.take("resources.cpus_per_worker", max(1, machine.cores // (workers or 1)), f"{machine.cores} cores")
    if machine.gpus:
        take.take("resources.gpus_per_worker", 1, f"{machine.gpus} GPUs here")
    if workers == 1:
        take.take("resources.zero_stage", 0, "one worker has nothing to share")
    share = (batch if isinstance(batch, int) else 16) // (workers or 1)
    sides = 2 if facts.task["name"] in COMPARING else 1
    micro = math.gcd(share, step(MICRO, sides * longest))
    group = facts.task.get("group", 8) if facts.task["name"] == "embedding" else 1
    take.take("resources.micro_batch", max(micro, group), f"rows of at most {longest} tokens")


def _said(facts: Facts) -> str:
    return {"encoder": "an encoder", "decoder": "a decoder"}.get(facts.model.kind, "an encoder with a decoder")


def _millions(weights: int) -> str:
    if weights < 1_000_000:
        return f"{weights:,}"
    return f"{weights / 1e6:,.0f}M" if weights >= 10_000_000 else f"{weights / 1e6:.1f}M"


def _arithmetic(facts: Facts) -> str:
    return "this machine computes it in hardware" if facts.machine.bf16 else "this processor only emulates bf16"
