"""Training objectives: a model and a batch in, sums of losses and the numbers of what is scored out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from manta.errors import InputError, Problem
from manta.objectives.clm import clm, clm_scored
from manta.objectives.contrast import contrast, contrast_scored, settled
from manta.objectives.denoising import denoising
from manta.objectives.distillation import attach as add_projection
from manta.objectives.distillation import detach as drop_projection
from manta.objectives.distillation import distillation
from manta.objectives.labels import sequence_labels, sequence_scored, spans, spans_scored, token_labels
from manta.objectives.mlm import labels_scored, mlm
from manta.objectives.multi_mlm import attach as add_predecessor
from manta.objectives.multi_mlm import detach as drop_predecessor
from manta.objectives.multi_mlm import multi_mlm, multi_mlm_scored
from manta.objectives.nsp import nsp, nsp_scored
from manta.objectives.preference import preference, preference_scored
from manta.objectives.sums import NOT_SCORED, mean
from manta.sections.objective import (
    Clm,
    Contrast,
    Denoising,
    Distillation,
    MultiMlm,
    Objective,
    Preference,
    SequenceLabels,
)

__all__ = ["NOT_SCORED", "TABLE", "Entry", "attach", "detach", "held_out", "layouts", "loss_of", "mean", "problems", "scored_of"]  # fmt: skip

# (model, batch of tensors) -> (sums, counts), both scalars or both (parts,), float32 and int64 (weighted: float32).
Loss = Callable[..., tuple[Any, Any]]
Scored = Callable[..., float | tuple[int, ...]]  # of a batch of numpy arrays


class Entry(NamedTuple):
    """An objective. Sums, not means: the loop divides by the counts of the whole global batch, so the loss does not
    depend on how rows are spread over workers and accumulation steps. Of several parts the loss is the sum of means."""

    loss: Loss  # settings that it needs are bound by `loss_of`
    scored: Scored  # the counts that the loss returns for a batch; settings are bound by `scored_of`
    parts: tuple[str, ...]  # what the sums are of
    families: tuple[str, ...]  # of models that it suits
    layouts: tuple[str, ...]  # of rows, `data.layout`, that it can be trained on; none: on a task's examples alone
    head: str  # the class of Transformers that models of it are made by


DECODERS = ("llama", "gpt2", "lstm")
ENCODERS = ("bert",)
BOTH = ("t5", "bart")
TEXT = ("concat", "best_fit")
PAIRS = ("sentence_pairs",)
# Of `denoising`, by its method.
METHODS: dict[str, tuple[str, ...]] = {"spans": ("denoising",), "infilling": TEXT}

TABLE: dict[str, Entry] = {
    "clm": Entry(clm, clm_scored, ("tokens",), DECODERS, TEXT, "AutoModelForCausalLM"),
    "mlm": Entry(mlm, labels_scored, ("tokens",), ENCODERS, TEXT + PAIRS, "AutoModelForMaskedLM"),
    "nsp": Entry(nsp, nsp_scored, ("tokens", "pairs"), ENCODERS, PAIRS, "AutoModelForPreTraining"),
    "multi_mlm": Entry(multi_mlm, multi_mlm_scored, ("tokens", "predecessors"), ENCODERS, TEXT + PAIRS, "AutoModelForMaskedLM"),
    "denoising": Entry(denoising, labels_scored, ("tokens",), BOTH, METHODS["spans"] + TEXT, "AutoModelForSeq2SeqLM"),
    "distillation": Entry(distillation, clm_scored, ("tokens",), DECODERS, TEXT, "AutoModelForCausalLM"),
    "sequence_labels": Entry(sequence_labels, sequence_scored, ("rows",), ("bert", "llama", "gpt2"), (), "AutoModelForSequenceClassification"),
    "token_labels": Entry(token_labels, labels_scored, ("words",), ENCODERS, (), "AutoModelForTokenClassification"),
    "spans": Entry(spans, spans_scored, ("rows",), ENCODERS, (), "AutoModelForQuestionAnswering"),
    "preference": Entry(preference, preference_scored, ("pairs",), DECODERS, (), "AutoModelForCausalLM"),
    "contrast": Entry(contrast, contrast_scored, ("texts",), ENCODERS, (), "AutoModel"),
}  # fmt: skip


def loss_of(objective: Objective, teacher: Any = None) -> Loss:
    """The objective's loss with its settings: (model, batch) -> (sums, counts).

    `teacher` is the model that `distillation` with a live teacher asks; raises InputError if that has none.
    """
    loss = TABLE[objective.name].loss
    if isinstance(objective, MultiMlm):
        return functools.partial(loss, predecessor_weight=objective.predecessor_weight)
    if isinstance(objective, Distillation):
        if (teacher is None) == (objective.teacher_mode == "live"):
            raise InputError(
                f"objective.teacher_mode = {objective.teacher_mode!r} needs {'a' if teacher is None else 'no'} teacher at hand, and "
                f"there is {'none' if teacher is None else 'one'} here"
            )
        return functools.partial(
            loss,
            temperature=objective.temperature,
            hard_weight=objective.hard_weight,
            teacher=teacher,
            hidden=objective.hidden,
        )
    if isinstance(objective, SequenceLabels):
        return functools.partial(loss, several=objective.several, weights=objective.weights)
    if isinstance(objective, Preference):
        return functools.partial(loss, beta=objective.beta, label_smoothing=objective.label_smoothing)
    if isinstance(objective, Contrast):
        return functools.partial(loss, group=objective.group, temperature=objective.temperature)
    return loss


def scored_of(objective: Objective) -> Scored:
    """The objective's counts with its settings: what `loss_of` counts, of a batch of numpy arrays."""
    scored = TABLE[objective.name].scored
    if isinstance(objective, SequenceLabels):
        return functools.partial(scored, weights=objective.weights)
    return scored


def held_out(objective: Objective) -> Objective:
    """What is measured of rows that are held out: of distillation how likely the text is, whatever a teacher finds."""
    return Clm(name="clm") if isinstance(objective, Distillation) else objective


def attach(objective: Objective, model: Any, seed: int, width: int | None = None) -> Any:
    """What is to be trained: the model, with the layers that only the objective needs; equal on all workers.

    `width` is that of a teacher's states, where these are compared.
    """
    if isinstance(objective, MultiMlm):
        return add_predecessor(model, seed)
    if isinstance(objective, Distillation):
        return model if width is None else add_projection(model, width, seed)
    return settled(model) if isinstance(objective, Contrast) else model


def detach(objective: Objective, model: Any, weights: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """What is to be kept: (model, its weights) without those layers. `model` is what `attach` returned."""
    if isinstance(objective, Distillation):
        return drop_projection(model, weights)
    return drop_predecessor(model, weights) if isinstance(objective, MultiMlm) else (model, weights)


def layouts(objective: Objective) -> tuple[str, ...]:
    """The layouts of rows that an objective can be trained on."""
    return METHODS[objective.method.kind] if isinstance(objective, Denoising) else TABLE[objective.name].layouts


def problems(objective: Objective, family: str, layout: str) -> Iterator[Problem]:
    """Why a model of `family` cannot be trained to this on rows of `layout`, each with what to do about it."""
    entry = TABLE[objective.name]
    if family not in entry.families:
        suited = [name for name, other in TABLE.items() if family in other.families and other.layouts]  # fmt: skip
        other = f", or for {family} objective.name={_either(suited)}" if suited else ""
        yield Problem(
            "objective.name",
            objective.name,
            f"a {family} model cannot be trained to this: set model.family={_either(entry.families)}{other}",
        )
    if layout not in (fitting := layouts(objective)):
        yield Problem(
            "objective.name",
            objective.name,
            f"cannot be trained on rows of layout {layout!r}: prepare the shards with data.layout.kind={_either(fitting)}",
        )


def _either(names: tuple[str, ...] | list[str]) -> str:
    return " or ".join(names)
